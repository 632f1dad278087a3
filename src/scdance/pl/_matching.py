from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import bmat, csr_matrix
from scipy.sparse.csgraph import connected_components

from scdance._checks import InputError, MissingKeyError, column, listed
from scdance._core.task import MATCH_MODALITY
from scdance._core.write import record_of, slots_of
from scdance.metrics import partner_ranks

from ._shared import GREY, single

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mudata import MuData

RANKS = 50  # partners that are looked at


def matching(mdata: MuData, key: str, truth: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw how sure a matching is; with the true partners, how far down the likeliest ones they stand.

    Parameters
    ----------
    mdata
        Object that holds the result.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        Column of ``mdata.obs`` with the name of the true partner of each cell. None: the probabilities of the
        partners that were found are drawn, those apart that are each other's nearest.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    MissingKeyError
        If there is no such run or column; the message names those that are there.
    InputError
        If no cell has a partner, or a true one.

    Examples
    --------
    >>> import scdance as sd
    >>> mdata = sd.datasets.toy_pairs(unpaired=0.4)
    >>> sd.tl.match_modality(mdata, method="cca", source="rna", target="prot")
    >>> ax = sd.pl.matching(mdata, "cca")
    """
    if not record_of(mdata, MATCH_MODALITY, key):
        runs = mdata.uns.get("scdance", {}).get(MATCH_MODALITY.name, {})
        msg = f"No run {key!r} of `match_modality` in the object; there are {listed(runs)}. Pass one as `key=`."
        raise MissingKeyError(msg)
    names = {part: name for part, (_, name) in slots_of(MATCH_MODALITY, key).items()}
    ax = single(ax, (4.8, 3.4))
    if truth is None:
        return _sureness(mdata, names, key, ax)
    true = column(mdata.obs, truth, where="mdata.obs", what="the column with the true partners", argument="truth")
    columns = mdata.obs_names.get_indexer(np.asarray(true.astype(object)))
    rows = np.flatnonzero(columns >= 0)
    if not len(rows):
        msg = f"Column {truth!r} names no cell of the object, so there is nothing to compare with."
        raise InputError(msg)
    links = mdata.obsp[names["matching"]].tocsr()
    partner = np.full(links.shape[0], -1)
    partner[rows] = columns[rows]
    ranks = np.arange(1, RANKS + 1)
    chance = np.minimum(ranks / _offered(links[rows])[:, None], 1).mean(axis=0)
    found = partner_ranks(partner, links)
    ax.plot(ranks, chance, color=GREY, linestyle=":", label="chance")
    ax.plot(ranks, [np.mean(found <= rank) for rank in ranks], color="tab:blue", label=key)
    ax.set(xlabel="likeliest partners", ylabel="share that has the true one", ylim=(0, None), title=key)
    ax.legend(frameon=False)
    return ax


def _offered(links: csr_matrix) -> np.ndarray:
    """Number of cells among which each row was matched: those of its batch, which links do not leave, (n_rows,)."""
    n = links.shape[0]
    used = np.unique(links.indices)
    _, group = connected_components(bmat([[None, links[:, used]], [links[:, used].T, None]]), directed=False)
    return np.maximum(np.bincount(group[n:], minlength=group.max() + 1)[group[:n]], 1)  # type: ignore[no-any-return]


def _sureness(mdata: MuData, names: dict[str, str], key: str, ax: Axes) -> Axes:
    """Histogram of the probabilities of the partners."""
    score = np.asarray(mdata.obs[names["score"]], dtype=float)
    has = ~np.isnan(score)
    if not has.any():
        msg = f"Run {key!r} found no partner for any cell, so there is nothing to draw."
        raise InputError(msg)
    mutual = np.asarray(mdata.obs[names["mutual"]] == "yes")
    bins = np.linspace(0, max(float(score[has].max()), 1e-3), 31)
    parts = [score[has & mutual], score[has & ~mutual]]
    labels = [f"each other's nearest ({len(parts[0])})", f"others ({len(parts[1])})"]
    ax.hist(parts, bins=bins, stacked=True, color=["tab:blue", GREY], label=labels)
    ax.set(xlabel="probability of the partner", ylabel="cells", title=key)
    ax.legend(frameon=False)
    return ax
