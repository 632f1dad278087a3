from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, warn, whole_number
from scdance._core.counts import clusters
from scdance._core.derive import write_derived
from scdance._core.method import Method
from scdance._core.objects import copied, needed_places, opened, slices_of
from scdance._core.read import read
from scdance._core.run import load, make, running, seed_of
from scdance._core.task import ATTENTION, TASKS
from scdance._core.write import check_slots
from scdance._docs import documented
from scdance.graph import spatial

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from scdance._core.cells import Cells

TIE = 1e-5  # relative difference up to which two weights are equal: sums in another order differ by less
MOST_GROUPS = 100  # of whose pairs a sum per permutation is kept


@documented(ATTENTION)
def attention(
    adata: AnnData | SpatialData,
    model: Method | str | Path,
    *,
    n_neighbors: int = 6,
    radius: float | None = None,
    groups_key: str | None = None,
    block: int | None = None,
    relative: bool = True,
    n_permutations: int = 99,
    layer: str | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    table_key: str | None = None,
    coordinate_system: str = "global",
    key_added: str | None = None,
    random_state: int | np.random.Generator | None = 0,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | SpatialData | None:
    """Map how much cells hear their neighbours in a transformer over cells: a hint, not evidence.

    In flow attention [Wu2022]_ every cell hears all that are read with it; the weight of any pair follows from sums
    over the cells, so that those of neighbours in the tissue are had without a matrix of all pairs. Each weight is
    compared with those at the same two places after the cells of the same patch of tissue have changed places at
    random, with their expression.

    Parameters
    ----------
    {adata}
    model
        Fitted method whose network is a :class:`~scdance.nn.CellTransformer`, as :func:`scdance.fm.pretrain` or
        ``scdance.fit("embed", …)`` returns it; or the folder of a saved one.
    n_neighbors
        Number of nearest neighbours of a cell that are looked at, at least 1.
    radius
        Look at all neighbours up to this distance instead, in the unit of the coordinates, above 0.
    groups_key
        Column of ``adata.obs`` with groups, such as cell types, to compare the weights of pairs of groups as well.
    block
        Layer of attention, 0 being the first. None: the mean over all.
    relative
        Divide the weight of a pair by what follows from how much the one cell hears, and the other is heard, in the
        whole patch: above 1 is more than that. False: the weight itself, most of which tells which cells are heard by
        all, and little of the pair.
    n_permutations
        How often cells change places, at least 1; the smallest p-value is 1 / (`n_permutations` + 1).
    {layer, spatial_key, library_key, table_key, coordinate_system}
    {key_added, random_state, device, copy}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Notes
    -----
    *A hint, not evidence.* Attention says what a network used to restore counts, not what cells do to each other. A
    model that is not told places weighs a pair by expression alone: what such a map shows of space comes from where
    cells of a kind lie. One that is told places reads the cells anew at each permutation, the places staying as they
    are. A p-value says that the weight is rare for pairs of the same patch; with ``relative=False`` it is so for most
    neighbours of a cell that is heard by all. In tissue that is no different from its permutations, a share p of the
    pairs has a p-value of at most p: :func:`scdance.pl.attention_edges` says how many have, and how many by chance.

    The weight is σ(Î_i) (q_i·k_j/I_i) n softmax_j(Ô) of :class:`scdance.nn.FlowAttention`, the mean over heads, times
    the number of cells that are read together, at most the ``batch_size`` of the model: a cell that hears all of them
    alike gives each about 0.7, and weights of large and small patches can be compared. With `relative` the weight is
    a_ij Σ_kl a_kl / (Σ_l a_il Σ_k a_kj), the sums being over the patch. Neighbours on either side of a seam between
    patches have no weight; the record's notes count them (``n_apart``, of ``n_pairs``).

    With `groups_key` the notes hold ``groups``, a table of ordered pairs of groups: which group ``hears`` and which is
    ``heard``, ``n_edges`` between neighbours, their mean ``weight``, the weight that is ``expected`` (mean over
    the permutations), ``z``, and the one-sided ``p``. A group moves with its cells, so this compares neighbours of the
    two groups with any cells of the two groups; whether groups are neighbours more often than by chance is for
    :func:`squidpy.gr.nhood_enrichment` to say. Memory grows with the number of neighbours, not with its square.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.simulate_fov(n_obs=200, n_vars=100)
    >>> model = sd.fit("embed", adata, method="cellplm", preset="tiny", steps=20, library_key="fov")
    >>> sd.tl.attention(adata, model, library_key="fov", groups_key="cell_type", n_permutations=19)
    >>> adata.obsp["cellplm_attention"].nnz
    1200
    >>> groups = adata.uns["scdance"]["attention"]["cellplm"]["notes"]["groups"]
    >>> groups.columns.tolist()
    ['hears', 'heard', 'n_edges', 'weight', 'expected', 'z', 'p']
    """
    start = time.perf_counter()
    model = _fitted(model, device)
    whole_number(n_neighbors, "n_neighbors", least=1)
    whole_number(n_permutations, "n_permutations", least=1)
    _check_block(block, model)
    table = opened(adata, ATTENTION, table_key)
    key = check_slots(table, ATTENTION, key_added, model.name)
    coords = needed_places(adata, table, "attention", spatial_key=spatial_key, coordinate_system=coordinate_system)
    codes, names = _groups(table, groups_key)
    cells = read(table, model, coords=coords, slices=slices_of(adata, table, library_key), layer=layer)
    model.check_cells(cells)
    seed = seed_of(random_state)
    near = {"n_neighbors": n_neighbors} if radius is None else {"radius": radius}
    links = spatial(cells.coords, **near, slices=cells.slice)  # type: ignore[arg-type]
    how = {"n_shuffles": n_permutations, "block": block, "relative": relative}
    weights, p, sums = _compared(model, cells, links, codes[cells.rows], len(names), seed, how)
    read_together = ~np.isnan(weights)
    notes: dict[str, Any] = {"n_pairs": links.nnz, "n_apart": int((~read_together).sum())}
    if not read_together.any():
        msg = "No two neighbours are read together, so there is nothing to weigh. Pass a larger `radius=`."
        raise InputError(msg)
    if groups_key is not None:
        notes["groups"] = _table(sums, names)
    if copy:
        adata, table = copied(adata, table)
    write_derived(
        table,
        ATTENTION,
        key,
        "attention",
        {"weights": _kept(links, weights), "p": _kept(links, p)},
        [],
        rows=cells.rows,
        params={
            "model": model.name,
            "task": model.task,
            **near,
            "groups_key": groups_key,
            "block": block,
            "relative": relative,
            "n_permutations": n_permutations,
            "library_key": library_key,
        },
        start=start,
        made_from={
            **cells.extra["input"],
            "recipe": cells.prep.text,
            "n_obs": cells.n_obs,
            "n_vars": cells.n_vars,
        },
        random_state=seed,
        notes=notes,
    )
    return adata if copy else None


# ------------------------------------------------------------------ what is given


def _fitted(model: Any, device: str) -> Any:
    """A copy of the method, or of the one in a folder; refused if it is not fitted or has no attention to show."""
    if isinstance(model, str | Path):
        if not Path(model).is_dir():
            msg = f"model={str(model)!r} is no folder. Pass a fitted method, or the folder of one that was saved."
            raise InputError(msg)
        model = load(model)
    task = TASKS.get(model.task) if isinstance(model, Method) else None
    if task is None or task.roles != ("cells",) or not callable(getattr(model, "attention", None)):
        msg = (
            f"{type(model).__name__} has no attention among cells to look at. Pass a transformer over cells, as "
            "`sd.fm.pretrain(files)` or `sd.fit('embed', adata, method='cellplm')` returns it."
        )
        raise InputError(msg)
    if not model.is_fitted:
        msg = f"The {type(model).__name__} is not fitted. Fit it first: `sd.fit({task.name!r}, adata, method=…)`."
        raise InputError(msg)
    return make(task.name, model, {}, device=device)


def _check_block(block: int | None, model: Any) -> None:
    if block is not None and whole_number(block, "block") >= model.sizes.n_layers:
        msg = f"block is {block}, but the model has {model.sizes.n_layers} layers of attention, from 0."
        raise InputError(msg)


def _groups(table: Any, groups_key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Group of each cell of the object as a code, −1 for none, and their names."""
    if groups_key is None:
        return np.full(table.n_obs, -1), np.array([], dtype=object)
    codes, names = clusters(table, groups_key, "groups_key")
    if len(names) > MOST_GROUPS:
        msg = f"`adata.obs[{groups_key!r}]` has {len(names)} groups; pass a column with at most {MOST_GROUPS}."
        raise InputError(msg)
    return codes, names


# ------------------------------------------------------------------ weights and what they are by chance


def _compared(
    model: Any,
    cells: Cells,
    links: sp.csr_matrix,
    codes: np.ndarray,
    n_groups: int,
    seed: int,
    how: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight and p-value of each link, NaN where it has none; and sums by pair of groups.

    `how` says what is weighed, how often. The sums are number and weight of the links, for the cells as they are and
    for each permutation, (2, n_permutations + 1, n_groups²).
    """
    n_permutations = how["n_shuffles"]
    weights = np.full(links.nnz, np.nan, dtype=np.float32)
    n_as_large = np.zeros(links.nnz, dtype=np.int32)
    sums = np.zeros((2, n_permutations + 1, n_groups**2))
    with running(model, {"cells": cells}, progress=None, checkpoint=None):
        found: Iterable[Any] = model.attention(cells, links, np.random.default_rng(seed), **how)
        for heard in found:
            if heard.shuffle == 0:
                weights[heard.links] = heard.weights
            else:
                n_as_large[heard.links] += heard.weights >= (1 - TIE) * weights[heard.links]
            if n_groups:
                hears, is_heard = codes[heard.sinks], codes[heard.sources]
                known = (hears >= 0) & (is_heard >= 0)
                pair = (hears * n_groups + is_heard)[known]
                for total, value in zip(sums[:, heard.shuffle], (None, heard.weights[known]), strict=True):
                    total += np.bincount(pair, value, minlength=n_groups**2)
    p = (1 + n_as_large) / (1 + n_permutations)
    return weights, np.where(np.isnan(weights), np.nan, p), sums


def _kept(links: sp.csr_matrix, values: np.ndarray) -> sp.csr_matrix:
    """The links that have a value, with it."""
    rows = np.repeat(np.arange(links.shape[0]), np.diff(links.indptr))
    there = ~np.isnan(values)
    return sp.csr_matrix((values[there].astype(np.float32), (rows[there], links.indices[there])), shape=links.shape)


def _table(sums: np.ndarray, names: np.ndarray) -> pd.DataFrame:
    """Ordered pairs of groups that have links, and their mean weight beside that of the permutations."""
    import pandas as pd

    pairs = np.flatnonzero(sums[0, 0])
    n, total = sums[:, :, pairs]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(n > 0, total / n, np.nan)
    own, others = means[0], means[1:]
    known = ~np.isnan(others)
    n_known = known.sum(axis=0)
    n_as_large = (known & (others >= (1 - TIE) * own)).sum(axis=0)
    expected = np.where(known, others, 0).sum(axis=0) / np.maximum(n_known, 1)
    sd = np.sqrt(np.where(known, (others - expected) ** 2, 0).sum(axis=0) / np.maximum(n_known - 1, 1))
    tellable = (n_known > 1) & (sd > TIE * expected)
    z = np.divide(own - expected, sd, out=np.full(len(pairs), np.nan), where=tellable)
    if (n_known < len(others)).any():
        n_rare = int((n_known < len(others)).sum())
        warn(f"{n_rare} pairs of groups are so rare that they have no neighbours in some permutations.")
    return pd.DataFrame(
        {
            "hears": names[pairs // len(names)].astype(str),
            "heard": names[pairs % len(names)].astype(str),
            "n_edges": n[0].astype(int),
            "weight": own,
            "expected": np.where(n_known > 0, expected, np.nan),
            "z": z,
            "p": (1 + n_as_large) / (1 + n_known),
        },
        index=[str(i) for i in range(len(pairs))],
    )
