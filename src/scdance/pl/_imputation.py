from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, MissingKeyError, listed, nearest, one_of
from scdance._core.counts import hidden, matrix_at
from scdance._core.task import IMPUTE
from scdance._core.write import record_of, slots_of

from ._shared import GREY, axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

PANELS = ("counts", "held_out", "genes")
SIZE = (3.9, 3.7)  # inches of a panel
UNITS = {
    "lognorm": "log(1 + counts per 10,000)",
    "counts": "expected count",
    "log1p": "log(1 + count)",
    "log1p_nonzero": "log(1 + count), if not zero",
    "log1p_250": "log(1 + count at a depth of 250)",
}
BY_DEPTH = 1e4  # counts of a cell after log-normalisation
SHADE, DARK = "#9ecae1", "#08519c"
ROWS = 1024  # cells that are made dense at once
PER_DECADE, DECADES = 6, 3  # bins of what is expected relative to the mean of the gene, each way from 1
FEWEST = 5  # molecules expected in a bin that is drawn
LEAST_RANGE = 100  # of the axes of held-out molecules, each way from 1
BELIEVABLE = 0.1  # imputability from which a gene is counted
MOST_TICKS = 9
MOST_DOUBLED = 64  # count up to which the groups of cells end at 4, 8, 16, …; beyond at 8, 32, 128, …
FEWEST_IN_BOX = 5  # values; fewer are drawn as points
LINEAR_UP_TO = 20  # expected counts; larger ones are drawn on a logarithmic scale above 1


def imputation(
    adata: AnnData,
    key: str,
    gene: str | None = None,
    *,
    truth: str | None = None,
    panels: Sequence[str] = PANELS,
    ax: Axes | np.ndarray | None = None,
) -> np.ndarray:
    """Draw what imputation made of the counts, how well it foretold held-out ones, and for which genes.

    ``"counts"`` shows the imputed values of one gene by its count in the cell: what a zero became, and how far large
    counts were drawn to the middle. ``"held_out"`` compares with counts that the method did not see: of the entries
    for which it expects four times as much as of the mean cell, have the held-out molecules four times as many? The
    mean of each gene is the point at 1; points below the diagonal on the right, or above it on the left, are
    predictions that exaggerate. Where whole entries were hidden, it shows what was predicted for them. ``"genes"``
    shows how well each gene was predicted. A panel for which something is missing says what to call.

    Parameters
    ----------
    adata
        Object that holds the layer with imputed expression.
    key
        The ``key_added`` of the run, or the name of its method.
    gene
        Gene of the first panel. None: the imputed one with the highest imputability, or without that the one whose
        imputed values vary most, counts on a logarithmic scale.
    truth
        Layer with all counts, from some of which the run was made. None: as the record of
        :func:`scdance.tl.hold_out` says.
    panels
        Which of ``"counts"``, ``"held_out"`` and ``"genes"`` to draw, in this order.
    ax
        Axes to draw on, one per panel. None: a new figure.

    Returns
    -------
    Array of Axes, one per panel.

    Raises
    ------
    MissingKeyError
        If the layer, the gene or the layer with the truth is not in the object; the message says what is.
    InputError
        If a panel is unknown or there is none, or the number of Axes is another.

    Notes
    -----
    Boxes hold the middle half of the cells, their whiskers nine tenths. Bars at held-out molecules are 95 % intervals
    of a Poisson count. Imputability is a correlation with single molecules, whose noise keeps it low for genes with
    few counts, however well these are predicted.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.hold_out(adata)
    >>> sd.tl.impute(adata, method="magic", layer="counts_kept", output="counts", evaluate=True)
    >>> panels = sd.pl.imputation(adata, "magic")
    """
    wanted = [one_of(panel, PANELS, "panels") for panel in ([panels] if isinstance(panels, str) else panels)]
    if not wanted:
        msg = f"`panels` names none; pass some of {listed(PANELS)}."
        raise InputError(msg)
    _refuse_missing(adata, key, gene, truth)
    shown = _gene(adata, key) if gene is None else gene
    places = axes(ax, 1, len(wanted), SIZE)[1][0]
    for name, place in zip(wanted, places, strict=True):
        if name == "counts":
            _draw_counts(adata, key, shown, place)
        elif name == "held_out":
            _draw_held_out(adata, key, truth, place)
        else:
            _draw_genes(adata, key, shown, place)
    return places  # type: ignore[no-any-return]


# What is drawn


def _refuse_missing(adata: AnnData, key: str, gene: str | None, truth: str | None) -> None:
    if key not in adata.layers:
        runs = adata.uns.get("scdance", {}).get(IMPUTE.name, {})
        msg = (
            f"No {key!r} in `adata.layers`, which has {listed(adata.layers)}; runs of `impute` are {listed(runs)}."
            f"{nearest(key, map(str, adata.layers))} Pass the `key_added` of a run, or the name of its method."
        )
        raise MissingKeyError(msg)
    if truth is not None and truth not in adata.layers:
        msg = (
            f"No {truth!r} in `adata.layers`; it has {listed(adata.layers)}.{nearest(truth, map(str, adata.layers))} "
            "Pass the layer with all counts as `truth=`."
        )
        raise MissingKeyError(msg)
    if gene is not None and gene not in adata.var_names:
        msg = (
            f"No gene {gene!r} in `adata.var_names`, which are {listed(adata.var_names, 5)}."
            f"{nearest(gene, adata.var_names)} Pass one of them as `gene=`."
        )
        raise MissingKeyError(msg)


def _imputed(adata: AnnData, key: str) -> np.ndarray:
    """Which genes were imputed, (n_vars,) bool; all where nothing is told."""
    _, name = slots_of(IMPUTE, key)["modelled"]
    return np.asarray(adata.var[name], dtype=bool) if name in adata.var else np.ones(adata.n_vars, dtype=bool)


def _imputability(adata: AnnData, key: str) -> np.ndarray | None:
    _, name = slots_of(IMPUTE, key)["imputability"]
    return np.asarray(adata.var[name], dtype=np.float64) if name in adata.var else None


def _gene(adata: AnnData, key: str) -> str:
    """The gene that is predicted best, or the one whose imputed values vary most, as logarithms."""
    known = _imputability(adata, key)
    if known is None or np.isnan(known).all():
        layer = np.log1p(adata.layers[key]) if _unit(adata, key) == "counts" else adata.layers[key]
        mean, squares = (np.asarray(x.mean(axis=0)).ravel() for x in (layer, _squared(layer)))
        known = np.where(_imputed(adata, key), squares - mean**2, -1)
    return str(adata.var_names[int(np.nanargmax(known))])


def _squared(layer: Any) -> Any:
    return layer.multiply(layer) if sp.issparse(layer) else np.square(layer)


def _unit(adata: AnnData, key: str) -> str:
    return str(record_of(adata, IMPUTE, key).get("params", {}).get("output", "lognorm"))


def _read(adata: AnnData, key: str) -> Any:
    """The matrix that the run read, CSR or dense; None if it was removed."""
    where = str(record_of(adata, IMPUTE, key).get("input", {}).get("layer", "X"))
    try:
        matrix = matrix_at(adata, where)
    except MissingKeyError:
        return None
    matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix
    return matrix if sp.issparse(matrix) or matrix is None else np.asarray(matrix)


def _is_logged(adata: AnnData, key: str) -> bool:
    return str(record_of(adata, IMPUTE, key).get("input", {}).get("kind", "counts")) == "log-normalised"


def _column(matrix: Any, j: int) -> np.ndarray:
    column = matrix[:, [j]]
    return np.asarray(column.toarray() if sp.issparse(column) else column, dtype=np.float64).ravel()


# The panels


def _draw_counts(adata: AnnData, key: str, gene: str, ax: Axes) -> None:
    """Imputed values of a gene by its count in the cell, and what the counts are in the same unit."""
    matrix, unit = _read(adata, key), _unit(adata, key)
    if matrix is None:
        _say(ax, "The layer that the run read\nis no longer in the object.")
        return
    j = int(np.flatnonzero(adata.var_names == gene)[0])
    seen, values = _column(matrix, j), _column(adata.layers[key], j)
    is_logged = _is_logged(adata, key)
    names, groups = _by_count(np.expm1(seen).round(3) if is_logged else seen)
    _boxes(ax, [values[rows] for rows in groups], np.arange(len(groups)), 0.6)
    depth = np.maximum(np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel(), 1)
    own = seen if is_logged or unit == "counts" else np.log1p(seen * (BY_DEPTH / depth if unit == "lognorm" else 1))
    ax.scatter(
        range(len(groups)), [np.median(own[rows]) for rows in groups],
        marker="D", s=22, facecolors="white", edgecolors="black", linewidths=0.9, zorder=4, label="counted, median",
    )  # fmt: skip
    if unit == "counts" and max(values.max(), own.max()) > LINEAR_UP_TO:
        ax.set_yscale("symlog", linthresh=1)
        ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xticks(range(len(groups)), [f"{name}\n{len(rows)}" for name, rows in zip(names, groups, strict=True)])
    ax.tick_params(axis="x", labelsize="x-small")
    ax.set_xlabel(("counts per 10,000" if is_logged else "count") + " in the cell, and below\nthe number of such cells")
    ax.set(ylabel=f"imputed {UNITS.get(unit, unit)}", title=gene)
    ax.legend(frameon=False, fontsize="small", loc="lower right", handletextpad=0.4)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_held_out(adata: AnnData, key: str, truth: str | None, ax: Axes) -> None:
    """What was held out against what was expected of it."""
    ax.set_title("what was held out")
    if _is_logged(adata, key):
        _say(ax, "The run read log-normalised values,\nof which no counts can be held out.")
        return
    try:
        given = hidden(adata, IMPUTE, key, truth)
    except (InputError, MissingKeyError):  # nothing was held out, or one of the two layers was removed
        layer = 'layer="counts_kept", output="counts"'
        _say(ax, f"No counts were held out.\nTo compare call sd.tl.hold_out(adata)\nand then impute with\n{layer}")
        return
    genes = np.flatnonzero(_imputed(adata, key))
    observed = sp.csr_matrix(given["observed"])[:, genes]
    held_out = sp.csr_matrix(given["truth"])[:, genes] - observed
    held_out.eliminate_zeros()
    if not held_out.nnz or held_out.data.min() < 0:
        _say(ax, "What the run read is not the truth\nwithout some of its counts.")
    elif not observed.multiply(held_out > 0).nnz:
        logs = given["logs"] if given["logs_of_nonzero"] is None else given["logs_of_nonzero"]
        _draw_entries(held_out, logs[:, genes], ax)
    elif given["rates"] is None:
        _say(ax, 'To compare with held-out molecules\nimpute with output="counts".')
    else:
        _draw_molecules(observed, held_out, given["rates"], genes, ax)


def _draw_molecules(observed: sp.csr_matrix, held_out: sp.csr_matrix, rates: np.ndarray, genes: Any, ax: Axes) -> None:
    """Held-out molecules and those expected, both relative to the mean share of the gene, in bins of the latter."""
    from matplotlib.ticker import LogLocator, NullLocator
    from scipy.stats import chi2

    total = observed.sum(dtype=np.float64)
    ratio = held_out.sum(dtype=np.float64) / total
    depth = np.asarray(observed.sum(axis=1, dtype=np.float64)) * ratio
    share = np.asarray(observed.sum(axis=0, dtype=np.float64)) / total
    middle = PER_DECADE * DECADES
    sums = np.zeros((3, 2 * middle + 1))
    for start in range(0, observed.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        mean, expected = depth[rows] @ share, rates[rows][:, genes] * ratio
        fold = np.divide(expected, mean, out=np.ones_like(mean), where=mean > 0)
        place = np.rint(np.log10(np.clip(fold, 10.0**-DECADES, 10.0**DECADES)) * PER_DECADE).astype(int) + middle
        for i, values in enumerate((held_out[rows].toarray(), expected, mean)):
            sums[i] += np.bincount(place.ravel(), weights=values.ravel(), minlength=sums.shape[1])
    found, expected, mean = sums[:, sums[1] >= FEWEST]
    low, high = chi2.ppf(0.025, 2 * found) / 2, chi2.ppf(0.975, 2 * found + 2) / 2
    x, y = expected / mean, found / mean
    bars = np.stack([found - np.nan_to_num(low), high - found]) / mean
    most = np.max([x, 1 / x, y], initial=LEAST_RANGE) * 1.5
    ax.axline((1, 1), (2, 2), color=GREY, zorder=0)
    ax.errorbar(x, y, yerr=bars, fmt="o", markersize=4, color=DARK, ecolor="0.5", elinewidth=1)
    ax.set(xscale="log", yscale="log", xlim=(1 / most, most), ylim=(1 / most, most))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(numticks=MOST_TICKS))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize="small")
    ax.set_xlabel(f"expected fold of the gene's mean\n{held_out.sum():,.0f} molecules held out")
    ax.set_ylabel("held-out fold of the gene's mean")
    ax.set_aspect("equal")
    ax.spines[["top", "right"]].set_visible(False)


def _draw_entries(held_out: sp.csr_matrix, logs: np.ndarray, ax: Axes) -> None:
    """Predicted logarithms of hidden entries by their count."""
    entries = held_out.tocoo()
    values = logs[entries.row, entries.col]
    names, groups = _by_count(entries.data)
    middle = np.array([np.log1p(entries.data[rows]).mean() for rows in groups])
    width = 0.7 * np.diff(middle).min(initial=0.5)
    ax.plot(middle, middle, color="0.4", linestyle="--", linewidth=1, label="what was hidden")
    _boxes(ax, [values[rows] for rows in groups], middle, width)
    ax.set_xticks(middle, names)
    ax.set_xlim(middle[0] - width, middle[-1] + width)
    ax.tick_params(axis="x", labelsize="x-small")
    ax.set(xlabel=f"count of the hidden entries\n{held_out.nnz:,} of them", ylabel="predicted log(1 + count)")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)


def _draw_genes(adata: AnnData, key: str, gene: str, ax: Axes) -> None:
    """Imputability of the genes by their mean expression."""
    ax.set_title("imputability of the genes")
    known, matrix = _imputability(adata, key), _read(adata, key)
    if known is None or np.isnan(known).all():
        _say(ax, "How well each gene is predicted\nwas not measured. Call\nsd.tl.impute(adata, …, evaluate=True)")
        return
    if matrix is None:
        _say(ax, "The layer that the run read\nis no longer in the object.")
        return
    mean = np.asarray(matrix.mean(axis=0), dtype=np.float64).ravel()
    there = ~np.isnan(known) & (mean > 0)
    share = float((known[there] >= BELIEVABLE).mean())
    ax.axhline(BELIEVABLE, color="0.4", linestyle="--", linewidth=1)
    ax.scatter(mean[there], known[there], s=8, color=DARK, alpha=0.5, linewidths=0, rasterized=True)
    j = int(np.flatnonzero(adata.var_names == gene)[0])
    if there[j]:
        ax.scatter(mean[j], known[j], s=36, facecolors="none", edgecolors="black")
        side = "right" if mean[j] > np.sqrt(mean[there].min() * mean[there].max()) else "left"
        shift = (-6 if side == "right" else 6, 0)
        ax.annotate(
            gene, (mean[j], known[j]), xytext=shift, textcoords="offset points", ha=side, va="center", fontsize="small"
        )
    ax.set(xscale="log", ylim=(min(float(known[there].min()), 0) - 0.05, 1.02))
    ax.set_xlabel(f"mean count of the gene\n{share:.0%} of {int(there.sum())} genes are at {BELIEVABLE:g} or above")
    ax.set_ylabel("correlation with held-out molecules")
    ax.spines[["top", "right"]].set_visible(False)


def _by_count(counts: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """Names and positions of the entries with the count 0, 1, 2, 3–4, 5–8 and so on, of those groups that there are."""
    most = counts.max(initial=0)
    ends = [0.0, 1.0, 2.0]
    while ends[-1] < most:
        ends.append(ends[-1] * (2 if most <= MOST_DOUBLED else 4))
    place = np.searchsorted(ends, counts)
    names = ["0", "1", "2", *(f"{low + 1:.0f}–{high:.0f}" for low, high in pairwise(ends[2:]))]
    there = np.unique(place)
    return [names[i] for i in there], [np.flatnonzero(place == i) for i in there]


def _boxes(ax: Axes, groups: list[np.ndarray], at: np.ndarray, width: float) -> None:
    """A box for each group of values, or points where there are few."""
    many = [i for i, values in enumerate(groups) if len(values) >= FEWEST_IN_BOX]
    ax.boxplot(
        [groups[i] for i in many], positions=at[many], widths=width, whis=(5, 95), showfliers=False,
        patch_artist=True, manage_ticks=False, medianprops={"color": "black", "linewidth": 1.5},
        boxprops={"facecolor": SHADE, "linewidth": 0.8},
        whiskerprops={"linewidth": 0.8}, capprops={"linewidth": 0.8},
    )  # fmt: skip
    for i in set(range(len(groups))).difference(many):
        ax.scatter(np.full(len(groups[i]), at[i]), groups[i], s=12, color=DARK, linewidths=0, zorder=3)


def _say(ax: Axes, text: str) -> None:
    """A quiet sentence in place of a picture."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize="small", color="0.35", wrap=True)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color(GREY)
