"""From rows to tables: means and spreads, and the page of the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def read(path: str | Path) -> pd.DataFrame:
    """Rows of a benchmark file.

    Parameters
    ----------
    path
        CSV that :func:`run` wrote.

    Returns
    -------
    One row per run.
    """
    import pandas as pd

    return pd.read_csv(path, dtype={"error": str, "stopped": str, "k": str}, keep_default_na=True).fillna(
        {"error": "", "k": "", "stopped": ""}
    )


def summary(rows: pd.DataFrame, scores: Sequence[str] = ("ari", "nmi")) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of each data set, variant and mode of k.

    Parameters
    ----------
    rows
        Rows of :func:`run` or :func:`read`.
    scores
        Columns to average.

    Returns
    -------
    One row per data set, variant and k: ``<score>`` (mean), ``<score>_sd``, ``picked_<score>`` (mean of the epochs
    that the labels would pick), ``n_seeds``, ``n_failed``, median ``cpu_seconds``, largest ``peak_mb``, mean
    ``n_clusters``.
    """
    groups = rows.groupby(["dataset", "k", "variant"], sort=False)
    out = groups.agg(
        **{score: (score, "mean") for score in scores},
        **{f"{score}_sd": (score, "std") for score in scores},
        **{f"picked_{score}": (f"picked_{score}", "mean") for score in scores},
        n_clusters=("n_clusters", "mean"),
        cpu_seconds=("cpu_seconds", "median"),
        peak_mb=("peak_mb", "max"),
        n_seeds=("seed", "nunique"),
        n_failed=("error", lambda errors: int((errors != "").sum())),
    )
    return out.reset_index()


def leaderboard(rows: pd.DataFrame, scores: Sequence[str] = ("ari", "nmi")) -> str:
    """The tables of a leaderboard page as Markdown: one per mode of k, best average first.

    Parameters
    ----------
    rows
        Rows of :func:`run` or :func:`read`.
    scores
        Columns to show.

    Returns
    -------
    Markdown; the epochs that labels would pick stand in parentheses.
    """
    table = summary(rows, scores)
    sets = list(dict.fromkeys(table["dataset"]))
    parts = []
    for mode, title in (("known", "Number of clusters known"), ("estimated", "Number of clusters estimated")):
        part = table[table["k"].isin([mode, ""])]
        first = part.pivot_table(index="variant", columns="dataset", values=scores[0], sort=False)
        order = first.mean(axis=1, skipna=False).sort_values(ascending=False).index
        if not (part["k"] == mode).any():
            continue
        head = [
            "method",
            *(f"{name} {score.upper()}" for name in sets for score in scores),
            f"mean {scores[0].upper()}",
            "CPU s",
            "MB",
        ]
        lines = [f"## {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for variant in order:
            of = part[part["variant"] == variant].set_index("dataset")
            cells = [_cell(of, name, score) for name in sets for score in scores]
            cost = (
                [f"{of['cpu_seconds'].max():.0f}", f"{of['peak_mb'].max():.0f}"]
                if of["cpu_seconds"].notna().any()
                else ["", ""]
            )
            lines.append(f"| {' | '.join([variant, *cells, f'{of[scores[0]].mean():.3f}', *cost])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(of: pd.DataFrame, dataset: str, score: str) -> str:
    if dataset not in of.index or of.loc[dataset, "n_failed"]:
        return "failed" if dataset in of.index else ""
    row = of.loc[dataset]
    spread = f" ± {row[f'{score}_sd']:.3f}" if row[f"{score}_sd"] == row[f"{score}_sd"] else ""
    picked = f" ({row[f'picked_{score}']:.3f})" if row[f"picked_{score}"] == row[f"picked_{score}"] else ""
    return f"{row[score]:.3f}{spread}{picked}"
