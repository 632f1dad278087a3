"""From rows to tables: means and spreads, differences to the floors, and the page of the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.registry import task_of
from scdance.metrics import get as metric

if TYPE_CHECKING:
    import pandas as pd

MOST_SCORES = 3  # of each data set in one table; with more, each data set has a table of its own
TITLES = {"known": "Number of clusters known", "estimated": "Number of clusters estimated"}


def read(path: str | Path) -> pd.DataFrame:
    """Rows of a benchmark file.

    Parameters
    ----------
    path
        CSV that :func:`run` wrote.

    Returns
    -------
    One row per run.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.read("docs/leaderboard/cluster.csv")  # doctest: +SKIP
    """
    import pandas as pd

    words = ("kind", "knobs", "k", "picked_epoch", "stopped", "versions", "error")
    return pd.read_csv(path, dtype=dict.fromkeys(words, str)).fillna(dict.fromkeys(words, ""))


def summary(rows: pd.DataFrame, scores: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of each data set, variant and mode of k.

    Parameters
    ----------
    rows
        Rows of :func:`run` or :func:`read`.
    scores
        Columns to average; None: the scores of the task.

    Returns
    -------
    One row per data set, k and variant: its ``kind``; ``<score>``, ``<score>_sd`` and ``picked_<score>`` (the mean
    of the epochs that the labels would pick) over the seeds that gave a result, NaN where there is none;
    ``n_seeds``, ``n_failed``, mean ``n_clusters``, median ``cpu_seconds``, largest ``peak_mb``.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.read("docs/leaderboard/cluster.csv")  # doctest: +SKIP
    >>> sd.bench.summary(rows)[["dataset", "variant", "k", "ari", "ari_sd"]]  # doctest: +SKIP
    """
    scores = _scores(rows, scores)
    groups = rows.groupby(["dataset", "k", "variant", "kind"], sort=False)
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


def averages(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """Mean of a score over the data sets of the rows that it can judge, one row per seed, one column per variant.

    A variant has a mean only for seeds that gave a result on every one of them.
    """
    judged = rows.groupby("dataset")[score].transform(lambda values: values.notna().any())
    rows = rows[judged.astype(bool)]
    wide = rows.pivot_table(index=["seed", "dataset"], columns="variant", values=score, sort=False, dropna=False)
    return wide.groupby("seed").mean().where(wide.notna().groupby("seed").all())


def differences(rows: pd.DataFrame, score: str | None = None, *, k: str = "known") -> pd.DataFrame:
    """How far each method is better than each floor: same data set, same seed, averaged over the data sets.

    One recipe of a floor, fixed beforehand, is compared on all data sets; the best floor of each data set would be
    picked by the labels.

    Parameters
    ----------
    rows
        Rows of :func:`run` or :func:`read`.
    score
        The score to compare; None: the first one of the task.
    k
        ``"known"`` or ``"estimated"``; variants that take no number of clusters stand in both.

    Returns
    -------
    One row per pair of ``variant`` (of a method) and ``floor``: ``difference`` (mean over the seeds), its standard
    deviation over the seeds ``sd``, its interval of 95 % by Student's t from ``low`` to ``high``, and ``n_seeds``,
    those in which both have a result on every data set. The interval is that of other seeds, not of other data.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.read("docs/leaderboard/cluster.csv")  # doctest: +SKIP
    >>> sd.bench.differences(rows, "ari", k="estimated")  # doctest: +SKIP
    """
    import pandas as pd
    from scipy.stats import t

    score = score or _scores(rows, None)[0]
    rows = _of_mode(rows, k)
    kinds = rows.drop_duplicates("variant").set_index("variant")["kind"]
    sign, mean = _sign(score), averages(rows, score).reindex(columns=kinds.index)
    pairs = []
    for variant in kinds.index[kinds.isin(["method", "route"])]:
        for floor in kinds.index[kinds == "floor"]:
            gain = sign * (mean[variant] - mean[floor]).dropna()
            pairs.append((variant, floor, gain.mean(), gain.std(), len(gain)))
    found = pd.DataFrame(pairs, columns=["variant", "floor", "difference", "sd", "n_seeds"])
    half = t.ppf(0.975, found["n_seeds"] - 1) * found["sd"] / found["n_seeds"] ** 0.5
    return found.assign(low=found["difference"] - half, high=found["difference"] + half)


def measured(rows: pd.DataFrame, path: str | Path | None = None) -> pd.DataFrame:
    """What ``scdance.methods`` shows of each method: its score and its cost with all defaults.

    Parameters
    ----------
    rows
        Rows of :func:`run` or :func:`read`.
    path
        CSV to write; None: none.

    Returns
    -------
    One row per method with a result on every data set, the best first: ``score`` (mean over data sets and seeds of
    the first score of the task, number of clusters known where the method takes one) and, of the same rows, median
    ``cpu_seconds``.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.read("docs/leaderboard/cluster.csv")  # doctest: +SKIP
    >>> sd.bench.measured(rows)  # doctest: +SKIP
    """
    import pandas as pd

    rows = _of_mode(rows, "known")
    # where labels are the truth, a method that was told some is measured on other cells than the rest
    labelled = ["semi-supervised"] if task_of(rows["task"].iloc[0]).truth == "obs" else []
    defaults = rows[(rows["variant"] == rows["method"]) & ~rows["kind"].isin(["control", *labelled])]
    first = _scores(rows, None)[0]
    mean = averages(rows, first).mean()
    cost = defaults[defaults[first].notna()].groupby("method")["cpu_seconds"].median()
    table = pd.DataFrame({"score": mean.reindex(cost.index), "cpu_seconds": cost}).dropna()
    best_first = _sign(first) > 0
    table = table.sort_values("score", ascending=not best_first).round({"score": 3, "cpu_seconds": 1})
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, lineterminator="\n")
    return table


def leaderboard(rows: pd.DataFrame, scores: Sequence[str] | None = None) -> str:
    """The tables of a leaderboard page as Markdown: for each mode of k who wins, the scores, the differences.

    Parameters
    ----------
    rows
        Rows of :func:`run` or :func:`read`.
    scores
        Columns to show; None: the scores of the task. The first one decides the order.

    Returns
    -------
    Markdown. ± is the standard deviation over the seeds.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.read("docs/leaderboard/cluster.csv")  # doctest: +SKIP
    >>> page = sd.bench.leaderboard(rows)  # doctest: +SKIP
    """
    scores = _scores(rows, scores)
    parts = []
    for mode, title in TITLES.items():
        if (rows["k"] == mode).any():
            part = _of_mode(rows, mode)
            title = title if (rows["k"] == "known").any() else "Scores"  # no method takes a number of clusters
            for own, named in _by_scores(part, scores):
                some = part[part["dataset"].isin(own)]
                judged = f" by {_head(named[0])}" if len(own) < part["dataset"].nunique() else ""
                tables = [own] if len(named) <= MOST_SCORES else [[each] for each in own]
                parts += [f"## {title}{judged}", _winner(some, named[0])]
                parts += [_scored(some[some["dataset"].isin(each)], named) for each in tables]
                parts += [_against(some, named[0], mode)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _by_scores(part: pd.DataFrame, scores: list[str]) -> list[tuple[list[str], list[str]]]:
    """Data sets that can be judged by the same scores, and those scores."""
    found: dict[tuple[str, ...], list[str]] = {}
    for dataset, of in part[part["kind"] != "control"].groupby("dataset", sort=False):
        named = tuple(score for score in scores if of[score].notna().any())
        found.setdefault(named or tuple(scores), []).append(str(dataset))
    return [(own, list(named)) for named, own in found.items()]


def _scores(rows: pd.DataFrame, scores: Sequence[str] | None) -> list[str]:
    """The scores that are asked for, or those of the task; a file from before one was added lacks it."""
    if scores is not None:
        return list(scores)
    return [name for name in task_of(rows["task"].iloc[0]).metrics if name in rows]


def _sign(score: str) -> int:
    """1 where a higher score is better, else −1."""
    return 1 if metric(score.removeprefix("picked_")).higher_is_better else -1


def _of_mode(rows: pd.DataFrame, k: str) -> pd.DataFrame:
    """Rows of one mode of k: the controls too, and variants that take no number of clusters."""
    without = ~rows["variant"].isin(rows.loc[rows["k"] == "known", "variant"]) & (k == "known")
    return rows[(rows["k"] == k) | (rows["k"] == "") | without]


def _overall(part: pd.DataFrame, score: str) -> pd.DataFrame:
    """Averages of what never failed: leaving out the seeds that did would flatter it."""
    return averages(part[~part["variant"].isin(part.loc[part["error"] != "", "variant"])], score)


def _order(part: pd.DataFrame, score: str) -> list[str]:
    """Variants by their mean over the data sets, those with a failure last."""
    mean = _overall(part, score).mean().reindex(part["variant"].unique())
    return list((_sign(score) * mean).sort_values(ascending=False, kind="stable", na_position="last").index)


def _winner(part: pd.DataFrame, score: str) -> str:
    """One sentence: the best method and the best floor, the winner first."""
    sign, mean = _sign(score), _overall(part, score).mean()
    kinds = part.drop_duplicates("variant").set_index("variant")["kind"]
    told = []
    for word, wanted in (("floor", ["floor"]), ("method", ["method", "route"])):
        among = mean[mean.index.isin(kinds.index[kinds.isin(wanted)])].dropna()
        if len(among):
            best = (sign * among).idxmax()
            told.append((sign * among[best], f"the best {word} is **{best}** with {among[best]:.3f}"))
    n_sets = part["dataset"].nunique()
    text = "; ".join(words for _, words in sorted(told, reverse=True))
    return f"By mean {_head(score)} over {n_sets} data set{'s' * (n_sets > 1)} {text}." if told else ""


def _scored(part: pd.DataFrame, scores: list[str]) -> str:
    table, name = summary(part, scores), _head(scores[0])
    mean, picked = _overall(part, scores[0]), _overall(part, f"picked_{scores[0]}").mean()
    sets = list(dict.fromkeys(part["dataset"]))
    has_known, has_picked = (part["k"] == "known").any(), part[f"picked_{scores[0]}"].notna().any()
    alone = len(scores) > MOST_SCORES  # one data set stands in the table, and above it
    columns = [_head(score) if alone else f"{each} {_head(score)}" for each in sets for score in scores]
    head = ["", "kind", *([] if alone else [f"mean {name}"]), *columns, "CPU s", "MB"]
    n_seeds = part["seed"].nunique()
    notes = f"± is the standard deviation over {n_seeds} seeds. " if n_seeds > 1 else "One seed. "
    notes += "CPU s and MB (above imports) are those of the costliest set."
    if has_picked:
        head.append(f"*label-picked {name}*")
        notes += " *Label-picked* is the epoch that the labels would choose: no result, shown for comparison only."
    lines = []
    for variant in _order(part, scores[0]):
        of = table[table["variant"] == variant].set_index("dataset")
        own_k = has_known and (of["k"] == "estimated").any()
        line = [f"{variant} (own k)" if own_k else variant, of["kind"].iloc[0]]
        if not alone:
            line.append(_number(mean[variant].mean(), mean[variant].std()) if variant in mean else "")
        line += [_cell(of, each, score) for each in sets for score in scores]
        line += [_number(of[column].max(), form=".0f") for column in ("cpu_seconds", "peak_mb")]
        if has_picked:
            number = _number(picked.get(variant))
            line.append(number and f"*{number}*")
        lines.append(line)
    return "\n\n".join([*(f"### {each}" for each in sets if alone), _markdown(head, lines), notes])


def _head(score: str) -> str:
    """A score as the head of a column: short names are abbreviations."""
    return score.replace("_", " ") if "_" in score else score.upper()


def _against(part: pd.DataFrame, score: str, mode: str) -> str:
    pairs = differences(part, score, k=mode)
    pairs = pairs[pairs["n_seeds"] > 0]
    if pairs.empty:
        return ""
    floors = list(dict.fromkeys(pairs["floor"]))
    found = {(pair.variant, pair.floor): _with_interval(pair) for pair in pairs.itertuples()}
    methods = [variant for variant in _order(part, score) if variant in set(pairs["variant"])]
    lines = [[variant, *(found.get((variant, floor), "") for floor in floors)] for variant in methods]
    better = "above" if _sign(score) > 0 else "below"
    text = f"{_head(score)} {better} each floor, same data set and seed, mean over the data sets, with 95 % intervals:"
    return f"{text}\n\n{_markdown(['', *floors], lines)}"


def _with_interval(pair: Any) -> str:
    text = _number(pair.difference, form="+.3f")
    return f"{text} ({pair.low:+.3f} to {pair.high:+.3f})" if pair.low == pair.low else text


def _cell(of: pd.DataFrame, dataset: str, score: str) -> str:
    if dataset not in of.index:
        return ""
    row = of.loc[dataset]
    if row["n_failed"]:
        return f"failed {row['n_failed']}/{row['n_seeds']}"
    return _number(row[score], row[f"{score}_sd"])


def _number(value: float | None, spread: float | None = None, form: str = ".3f") -> str:
    """A number and its spread; nothing where there is none."""
    if value is None or value != value:
        return ""
    return f"{value:{form}}" + (f" ± {spread:.3f}" if spread is not None and spread == spread else "")


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---", *["--:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
