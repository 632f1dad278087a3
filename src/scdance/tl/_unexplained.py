from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import warn
from scdance._core.derive import write_derived
from scdance._core.mixtures import mixed
from scdance._core.objects import copied, opened
from scdance._core.task import DECONVOLVE, Slot, Task
from scdance._core.write import check_slots
from scdance._docs import documented
from scdance.pp import unexplained as compare

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

N_GENES = 50  # that the record names
BY_CHANCE = 0.02  # share of the spots that may stand out though no type is missing

UNEXPLAINED = Task(
    "unexplained",
    text="Find spots that the reference of a deconvolution does not explain.",
    roles=("ref", "cells"),
    gives={
        "residual": Slot(
            "obs",
            "{key}_residual",
            "share of the spot's counts, squared and weighted, that is neither fitted nor noise, (n_obs,) float32 in "
            "[0, 1]; spots without shares have NaN",
            "vector",
            empty=float("nan"),
        ),
        "missing": Slot(
            "obs",
            "{key}_missing",
            '"yes" for spots whose residual stands out from the others, else "no"; spots without shares have none',
            "category",
        ),
    },
    optional=(),
    metrics=(),
    default="",
    data=DECONVOLVE.data,
)


@documented(UNEXPLAINED)
def unexplained(
    adata: AnnData | SpatialData,
    ref: AnnData | pd.DataFrame,
    key: str,
    *,
    labels_key: str | None = None,
    layer: str | None = None,
    ref_layer: str | None = None,
    table_key: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | SpatialData | None:
    """Find spots that the reference of a deconvolution does not explain: a type may be missing from it.

    The counts of each spot are compared with the sum of its shares times the mean profiles of the types, beyond the
    noise of counting. A gene that the spots show more or less of than the reference everywhere is corrected for, as
    platforms see genes differently; what remains is structure in some spots.

    Parameters
    ----------
    adata
        Object that holds the shares, or a SpatialData with it as a table.
    ref
        The reference of that run: annotated cells, or a table with one profile per type.
    key
        The ``key_added`` of the deconvolution, or the name of its method.
    {labels_key, layer, ref_layer, table_key}
    key_added
        Name of the results; None: `key`.
    {copy}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Notes
    -----
    The record's notes hold ``limit``, the residual above which a spot stands out (its square root lies six times as
    far above the lower quartile as that above the 5th percentile; at least 0.05), ``n_spots``, and ``genes``, those of
    which the spots that stand out have more than was fitted, the most first. With a reference that lacks nothing up to
    2 % of the spots stand out. Genes are corrected by the better explained half of the spots, so a type that is missing
    from the reference and present in most spots alike cannot be seen. Below some hundred counts a spot tells little.
    Where the reference explains the whole tissue badly, as one of another protocol may, all residuals are near 1 and
    none stands out: look at the map, :func:`scdance.pl.uncertainty`.

    Examples
    --------
    >>> import scdance as sd
    >>> spots, ref = sd.datasets.toy_mixtures(n_obs=200, n_vars=200, depth=2000)
    >>> sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type")
    >>> sd.tl.unexplained(spots, ref, "nnls", labels_key="cell_type")
    >>> bool(spots.obs["nnls_residual"].median() < 0.2)
    True
    """
    start = time.perf_counter()
    table = opened(adata, DECONVOLVE, table_key)
    key_added = check_slots(table, UNEXPLAINED, key_added, key)
    given = mixed(table, ref, key, labels_key=labels_key, layer=layer, ref_layer=ref_layer, tool="unexplained")
    found = compare(given.counts, given.shares, given.profiles)
    stands_out = found.share > found.limit
    genes = given.genes[found.genes[:N_GENES]]
    if stands_out.mean() > BY_CHANCE:
        warn(
            f"{int(stands_out.sum())} of {len(stands_out)} spots hold expression that the reference does not explain; "
            f"`obs[{key_added + '_missing'!r}]` is 'yes' there. They have more of {', '.join(genes[:5])} than fitted: "
            "a cell type may be missing from the reference."
        )
    if copy:
        adata, table = copied(adata, table)
    write_derived(
        table,
        UNEXPLAINED,
        key_added,
        "unexplained",
        {"residual": found.share, "missing": stands_out.astype(np.int32)},
        ["no", "yes"],
        rows=given.rows,
        params={"key": key, "labels_key": labels_key, "layer": layer, "ref_layer": ref_layer},
        start=start,
        made_from={**given.told, "n_obs": len(given.rows), "n_vars": len(given.genes)},
        notes={"limit": found.limit, "n_spots": int(stands_out.sum()), "genes": genes},
    )
    return adata if copy else None
