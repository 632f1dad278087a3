from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance import metrics
from scdance._checks import InputError
from scdance._core.task import ANNOTATE, TRANSFER_LABELS
from scdance._core.write import record_of

from ._shared import GREY, groups, probabilities, single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

FEWEST = 20  # cells of a point


def calibration(
    adata: AnnData, keys: str | Sequence[str], *, truth: str, n_bins: int = 10, ax: Axes | None = None
) -> Axes:
    """Draw whether probabilities can be believed: of the cells called with 90 %, nine in ten should be right.

    The cells of a run are cut into bins of equally many by the probability of their likeliest type; a point shows the
    mean of that and the share that is right, with a 95 % interval. Below the diagonal a method is too sure.

    Parameters
    ----------
    adata
        Object that holds the annotations.
    keys
        One run or several: their ``key_added``, or the names of their methods.
    truth
        Column of ``obs`` with the known types; cells where it is missing are left out.
    n_bins
        Number of bins, at least 1; fewer where a bin would hold less than 20 cells.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes. The legend holds the expected calibration error of each run.

    Raises
    ------
    MissingKeyError
        If a column or the probabilities are not in the object; the message says what is.
    InputError
        If `n_bins` is below 1, `keys` is empty, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> sd.tl.annotate(query, ref, method="svm", labels_key="cell_type")
    >>> ax = sd.pl.calibration(query, "svm", truth="cell_type")
    """
    if n_bins < 1:
        msg = f"n_bins is {n_bins!r}, but must be at least 1."
        raise InputError(msg)
    keys = [keys] if isinstance(keys, str) else list(keys)
    if not keys:
        msg = "`keys` names no run; pass the `key_added` of one, or the name of its method."
        raise InputError(msg)
    known = groups(adata, truth, what="known types")
    rows = np.flatnonzero(known.codes >= 0)
    if len(rows) == 0:
        msg = f"`adata.obs[{truth!r}]` has no value for any cell. Pass the column with the known types as `truth=`."
        raise InputError(msg)
    true = known.astype(str)[rows]
    drawn = {key: probabilities(adata, key).iloc[rows] for key in keys}
    ax = single(ax, (4.2, 4.0))
    ax.plot([0, 1], [0, 1], color=GREY, zorder=0)
    for key, proba in drawn.items():
        values = proba.to_numpy()
        best = values.max(axis=1)
        records = (record_of(adata, task, key) for task in (ANNOTATE, TRANSFER_LABELS))
        names = next((told["categories"] for told in records if "categories" in told), proba.columns)  # "|" for "/"
        right = np.array([*map(str, names)])[values.argmax(axis=1)] == true
        parts = np.array_split(np.argsort(best, kind="stable"), max(1, min(n_bins, len(rows) // FEWEST)))
        x, y = (np.array([values[part].mean() for part in parts]) for values in (best, right.astype(float)))
        low, high = _interval(y, np.array([len(part) for part in parts]))
        error = metrics.ece(np.asarray(true), proba)
        ax.errorbar(
            x, y, yerr=[y - low, high - y], marker="o", markersize=4, linewidth=1, label=f"{key} (ECE {error:.3f})"
        )
    ax.set(xlabel="probability of the likeliest type", ylabel="share of right calls", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.set_aspect("equal")
    ax.legend(frameon=False)
    return ax


def _interval(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of a share of n."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.minimum(middle - half, share), np.maximum(middle + half, share)
