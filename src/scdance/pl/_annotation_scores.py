from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, one_of
from scdance._core.task import ANNOTATE

from ._shared import GREY, axes, groups, in_order

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

SCORES = {  # and what stands below their panels
    "score": "probability of the type",
    "novelty": "how unlike the reference",
    "disagreement": "share that says another type",
}
CHARACTER = 0.085  # inches that a letter of a name takes
DOTS, SPREAD = 400, 0.3  # cells of a type that are drawn, and how far they are spread


def annotation_scores(
    adata: AnnData,
    key: str,
    *,
    by: str | None = None,
    scores: Sequence[str] = ("score", "novelty"),
    ax: Axes | None = None,
) -> np.ndarray:
    """Draw how sure an annotation is, type by type: probability of the call, and how new the cells look.

    Cells called "unknown" are grey. A type whose cells are improbable or new deserves a look at its markers.

    Parameters
    ----------
    adata
        Object that holds the annotation.
    key
        The ``key_added`` of the run, or the name of its method.
    by
        Column of ``obs`` by which cells are grouped, such as the known types or clusters. None: the types that were
        given.
    scores
        What is drawn, one panel each: "score", "novelty", "disagreement", where the run has it.
    ax
        Axes to draw on, one for each score. None: a new figure.

    Returns
    -------
    The Axes, one for each score.

    Raises
    ------
    MissingKeyError
        If a column is not in the object; the message says what is.
    InputError
        If one of the scores does not exist, or the run has none of them.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> sd.tl.annotate(query, ref, method="svm", labels_key="cell_type")
    >>> axes = sd.pl.annotation_scores(query, "svm")
    """
    for each in scores:
        one_of(each, SCORES, "What `scores` names")
    given = groups(adata, key, what="types")
    parts = groups(adata, by, what="groups") if by is not None else given
    there = [part for part in scores if f"{key}_{part}" in adata.obs]
    if not there:
        msg = f"Run {key!r} has none of the scores {', '.join(scores)}; pass others as `scores=`."
        raise InputError(msg)
    order = in_order(parts.categories)
    order = [i for i in order if (parts.codes == i).any()]
    unknown = np.asarray(given.astype(str)) == ANNOTATE.gives["labels"].beyond
    names = [f"{parts.categories[code]} ({int((parts.codes == code).sum())})" for code in order]
    beside = CHARACTER * max(map(len, names), default=0)
    _, panels = axes(ax, 1, len(there), (2.6 + beside / len(there), 1.0 + 0.28 * len(order)))
    rng = np.random.default_rng(0)  # of the places of the dots only
    for panel, part in zip(panels[0], there, strict=True):
        values = adata.obs[f"{key}_{part}"].to_numpy(dtype=float)
        for place, code in enumerate(order):
            rows = np.flatnonzero(parts.codes == code)
            shown = rng.choice(rows, DOTS, replace=False) if len(rows) > DOTS else rows
            heights = place + rng.uniform(-SPREAD, SPREAD, len(shown))
            color = np.where(unknown[shown], GREY, "tab:blue")
            panel.scatter(values[shown], heights, s=3, c=color, linewidths=0, rasterized=True)
            panel.plot([np.median(values[rows])] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        panel.set_yticks(range(len(order)), names if panel is panels[0, 0] else [""] * len(order))
        panel.set(xlim=(-0.02, 1.02), xlabel=SCORES[part])
        panel.invert_yaxis()
        panel.tick_params(axis="y", length=0)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return panels[0]
