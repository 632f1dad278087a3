"""Means, differences and pages, against numbers worked out by hand."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scdance import bench
from scdance._core import registry
from scdance._core.task import TASKS
from scdance.bench._run import _Table

# variant → kind, k, and the ARI on data sets a and b for each seed; None: that run failed
SCORES: dict[str, tuple[str, str, list[float | None], list[float | None]]] = {
    "shuffled truth": ("control", "", [0.01, -0.01], [0.0, 0.0]),
    "the truth": ("control", "", [1.0, 1.0], [1.0, 1.0]),
    "kmeans": ("floor", "known", [0.5, 0.7], [0.3, 0.3]),  # mean 0.6 and 0.3; 0.4 and 0.5 by seed
    "leiden": ("floor", "estimated", [0.4, 0.4], [0.6, 0.6]),  # 0.4 and 0.6; 0.5 and 0.5 by seed
    "deep": ("method", "known", [0.6, 0.6], [0.4, 0.8]),  # 0.6 and 0.6; 0.5 and 0.7 by seed
    "broken": ("method", "known", [0.9, 0.9], [0.9, None]),
}


def row(variant: str, kind: str, k: str, dataset: str, seed: int, ari: float | None, **other: Any) -> dict[str, Any]:
    given = {"task": "cluster", "dataset": dataset, "method": variant, "variant": variant, "k": k, "seed": seed}
    given |= {"kind": kind, "knobs": {}, "data_sha256": dataset}
    if ari is None:
        return given | {"error": "ValueError: no"}
    picked = {"picked_ari": ari + 0.1, "picked_nmi": ari, "picked_epoch": "training 3"} if variant == "deep" else {}
    cost = {} if kind == "control" else {"cpu_seconds": 10.0 * (seed + 1), "peak_mb": 100.0 + seed}
    return given | {"ari": ari, "nmi": ari / 2, "n_clusters": 4 + seed, **picked, **cost, **other}


def table(tmp_path: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as they come back from a file."""
    file = _Table(tmp_path / "rows.csv", TASKS["cluster"])
    for each in rows:
        file.add(each)
    return bench.read(tmp_path / "rows.csv")


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    return table(
        tmp_path,
        [
            row(variant, kind, k, dataset, seed, ari)
            for variant, (kind, k, *sets) in SCORES.items()
            for dataset, scores in zip("ab", sets, strict=True)
            for seed, ari in enumerate(scores)
        ],
    )


def cells(page: str, title: str, first: str = "") -> dict[str, list[str]]:
    """A table of the page: its lines by their first cell."""
    part = page.partition(f"## {title}")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if "|" in line]
    starts = [i for i, line in enumerate(lines) if line[0] == first] + [len(lines)]
    return {line[0]: line[1:] for line in lines[starts[0] : starts[1]]}


KNOWN, ESTIMATED = "Number of clusters known", "Number of clusters estimated"


def test_rows_come_back_with_words_as_words_and_gaps_as_nan(rows: pd.DataFrame):
    assert (rows.loc[rows["kind"] == "control", "k"] == "").all()
    assert rows["picked_epoch"].isin(["", "training 3"]).all()
    assert np.isnan(rows.loc[rows["error"] != "", "ari"]).all()
    assert rows["seed"].dtype == np.int64


def test_a_summary_holds_means_and_spreads(rows: pd.DataFrame):
    by = bench.summary(rows).set_index(["dataset", "variant"])
    kmeans = by.loc[("a", "kmeans")]
    assert kmeans["ari"] == pytest.approx(0.6)
    assert kmeans["ari_sd"] == pytest.approx(np.sqrt(0.02))  # deviations of ±0.1, n − 1 = 1
    assert kmeans["nmi"] == pytest.approx(0.3)
    assert kmeans[["n_clusters", "cpu_seconds", "peak_mb", "n_seeds", "n_failed"]].tolist() == [4.5, 15, 101, 2, 0]
    assert kmeans[["k", "kind"]].tolist() == ["known", "floor"]
    assert np.isnan(kmeans["picked_ari"])
    assert by.loc[("b", "deep"), "picked_ari"] == pytest.approx(0.7)
    assert by.loc[("b", "broken"), ["ari", "n_seeds", "n_failed"]].tolist() == [0.9, 2, 1]


def test_a_file_from_before_a_score_was_added_shows_the_others(rows: pd.DataFrame):
    old = rows.drop(columns=["nmi", "picked_nmi"])
    assert "nmi" not in bench.summary(old)
    assert cells(bench.leaderboard(old), KNOWN)["deep"][1:3] == cells(bench.leaderboard(rows), KNOWN)["deep"][1:3]


def test_one_seed_has_no_spread(rows: pd.DataFrame):
    first = rows[rows["seed"] == 0]
    assert bench.summary(first)["ari_sd"].isna().all()
    page = bench.leaderboard(first)
    assert cells(page, KNOWN)["deep"][:4] == ["method", "0.500", "0.600", "0.300"]
    assert "+0.100 " in page
    assert "0.100 ±" not in page


def test_differences_pair_data_sets_and_seeds(rows: pd.DataFrame):
    found = bench.differences(rows).set_index(["variant", "floor"])
    assert list(found.index) == [(v, f) for v in ("broken", "deep") for f in ("kmeans", "leiden")]
    # deep − kmeans: 0.5 − 0.4 and 0.7 − 0.5 by seed; deep − leiden: 0.0 and 0.2
    half = 12.7062  # of t with one degree of freedom; the standard errors are 0.05 and 0.1
    assert found.loc[("deep", "kmeans")].tolist() == pytest.approx(
        [0.15, np.sqrt(0.005), 2, 0.15 - 0.05 * half, 0.15 + 0.05 * half], rel=1e-4
    )
    assert found.loc[("deep", "leiden"), ["difference", "sd", "n_seeds"]].tolist() == pytest.approx(
        [0.1, np.sqrt(0.02), 2]
    )
    # the failed run takes its seed with it: only 0.9 − 0.4 is left, and no spread
    assert found.loc[("broken", "kmeans"), ["difference", "n_seeds"]].tolist() == pytest.approx([0.5, 1])
    assert found.loc[("broken", "kmeans"), ["sd", "low", "high"]].isna().all()
    assert bench.differences(rows, "nmi").set_index(["variant", "floor"]).loc[
        ("deep", "kmeans"), "difference"
    ] == pytest.approx(0.075)


def test_differences_of_what_always_failed_are_missing(tmp_path: Path):
    runs = [("good", "method", 0.5), ("never", "method", None), ("floor", "floor", 0.4), ("dead floor", "floor", None)]
    rows = table(tmp_path, [row(v, kind, "known", "a", 0, ari) for v, kind, ari in runs])
    found = bench.differences(rows).set_index(["variant", "floor"])
    assert found.loc[("good", "floor"), "difference"] == pytest.approx(0.1)
    assert found.loc[[("good", "dead floor"), ("never", "floor")], "difference"].isna().all()
    assert found["n_seeds"].tolist().count(0) == 3
    board = cells(bench.leaderboard(rows), KNOWN)
    assert board["never"][:3] == ["method", "", "failed 1/1"]
    assert list(board)[2:4] == ["good", "floor"]


def test_the_page_shows_scores_in_order_of_their_mean(rows: pd.DataFrame):
    page = bench.leaderboard(rows)
    board = cells(page, KNOWN)
    assert list(board) == ["", "---", "the truth", "deep", "leiden (own k)", "kmeans", "shuffled truth", "broken"]
    assert board[""] == ["kind", "mean ARI", "a ARI", "a NMI", "b ARI", "b NMI", "CPU s", "MB", "*label-picked ARI*"]
    assert board["kmeans"] == ["floor", "0.450 ± 0.071", "0.600 ± 0.141", "0.300 ± 0.071", "0.300 ± 0.000",
                               "0.150 ± 0.000", "15", "101", ""]  # fmt: skip
    assert board["the truth"] == ["control", "1.000 ± 0.000", "1.000 ± 0.000", "0.500 ± 0.000", "1.000 ± 0.000",
                                  "0.500 ± 0.000", "", "", ""]  # fmt: skip


def test_the_label_picked_epoch_stands_apart_and_only_where_there_is_one(rows: pd.DataFrame):
    board = cells(bench.leaderboard(rows), KNOWN)
    assert board["deep"][-1] == "*0.700*"
    assert {line[-1] for name, line in board.items() if name not in ("", "---", "deep")} == {""}
    without = bench.leaderboard(rows[rows["variant"] != "deep"])
    assert "picked" not in without.lower()


def test_a_failed_cell_says_so_and_what_failed_once_has_no_mean_and_wins_nothing(rows: pd.DataFrame):
    page = bench.leaderboard(rows)
    assert cells(page, KNOWN)["broken"][1:6] == ["", "0.900 ± 0.000", "0.450 ± 0.000", "failed 1/2", "failed 1/2"]
    assert "**broken**" not in page


def test_a_table_that_is_not_complete_yet_averages_the_seeds_that_are(rows: pd.DataFrame):
    part = rows[(rows["seed"] == 0) | (rows["dataset"] == "a")]
    assert cells(bench.leaderboard(part), KNOWN)["deep"][1:4] == ["0.500", "0.600 ± 0.000", "0.300 ± 0.000"]


def test_the_first_line_says_who_wins(rows: pd.DataFrame):
    page = bench.leaderboard(rows)
    assert page.splitlines()[2] == (
        "By mean ARI over 2 data sets the best method is **deep** with 0.600; the best floor is **leiden** with 0.500."
    )
    better = rows.assign(ari=rows["ari"].where(rows["variant"] != "kmeans", 0.99))
    assert "the best floor is **kmeans** with 0.990; the best method is" in bench.leaderboard(better)


def test_the_page_shows_each_method_above_each_floor(rows: pd.DataFrame):
    page = bench.leaderboard(rows)
    part = page.partition(
        "ARI above each floor, same data set and seed, mean over the data sets, with 95 % intervals:"
    )[2]
    against = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.split("\n\n")[1].splitlines()]
    assert against[0] == ["", "kmeans", "leiden"]
    assert against[2:] == [
        ["deep", "+0.150 (-0.485 to +0.785)", "+0.100 (-1.171 to +1.371)"],
        ["broken", "+0.500", "+0.400"],
    ]


def test_each_mode_of_k_has_its_table_if_it_has_rows(rows: pd.DataFrame):
    page = bench.leaderboard(rows)
    assert list(cells(page, ESTIMATED)) == ["", "---", "the truth", "leiden", "shuffled truth"]
    assert ESTIMATED not in bench.leaderboard(rows[rows["k"] != "estimated"])


def test_scores_can_be_chosen(rows: pd.DataFrame):
    board = cells(bench.leaderboard(rows, ["nmi"]), KNOWN)
    assert board[""][:4] == ["kind", "mean NMI", "a NMI", "b NMI"]


def test_measured_holds_defaults_with_a_result_everywhere(rows: pd.DataFrame, tmp_path: Path):
    variant = row("kmeans", "floor", "known", "a", 0, 0.99) | {"variant": "kmeans z-scored"}
    guessed = row("kmeans", "floor", "estimated", "a", 0, 0.99)
    rows = table(tmp_path, [*rows.to_dict("records"), variant, guessed])
    never = rows["variant"].eq("broken") & rows["dataset"].eq("b")
    rows.loc[never, "ari"] = np.nan
    found = bench.measured(rows, tmp_path / "new" / "measured_cluster.csv")
    assert found.to_dict("index") == {
        "deep": {"score": 0.6, "cpu_seconds": 15},
        "leiden": {"score": 0.5, "cpu_seconds": 15},
        "kmeans": {"score": 0.45, "cpu_seconds": 15},
    }
    text = (tmp_path / "new" / "measured_cluster.csv").read_text()
    assert next(csv.DictReader(StringIO(text))) == {"method": "deep", "score": "0.6", "cpu_seconds": "15.0"}


def test_what_is_measured_is_what_methods_shows(rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import scdance as sd

    bench.measured(rows, tmp_path / "measured_cluster.csv")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    registry._measured.cache_clear()
    try:
        shown = sd.methods("cluster")
    finally:
        registry._measured.cache_clear()
    assert shown.loc["leiden", ["score", "cpu_seconds"]].tolist() == [0.5, 15]
    assert np.isnan(shown.loc["gmm", "score"])


def test_where_lower_is_better_the_lowest_comes_first():
    rows = pd.DataFrame([
        {"task": "deconvolve", "dataset": "d", "method": m, "variant": m, "k": "estimated" if kind != "control" else "",
         "seed": 0, "kind": kind, "rmse": rmse, "pearson": 0.5, "jsd": 0.1, "auprc": 0.5, "picked_rmse": np.nan,
         "picked_pearson": np.nan, "picked_jsd": np.nan, "picked_auprc": np.nan, "n_clusters": np.nan,
         "cpu_seconds": 1.0, "peak_mb": 1.0, "error": ""}
        for m, kind, rmse in (("bad", "floor", 0.3), ("good", "method", 0.1), ("the truth", "control", 0.0))
    ])  # fmt: skip
    page = bench.leaderboard(rows)
    assert page.index("| the truth |") < page.index("| good |") < page.index("| bad |")
    assert "By mean RMSE over 1 data set the best method is **good** with 0.100; the best floor is **bad**" in page
    assert "RMSE below each floor" in page and "+0.200" in page
    assert page.startswith("## Scores")
    assert bench.measured(rows).index.tolist() == ["good", "bad"]


# Imputation: data sets with hidden molecules and with hidden entries are judged by other scores


def imputed(variant: str, kind: str, dataset: str, seed: int, value: float | None, **other: float) -> dict[str, Any]:
    thinned = dataset.endswith("thinning")
    given = {"task": "impute", "dataset": dataset, "method": variant, "variant": variant, "k": "", "seed": seed}
    given |= {"kind": kind, "knobs": {}, "data_sha256": dataset}
    if kind == "method" or kind == "floor":
        given |= {"k": "estimated", "cpu_seconds": 1.0, "peak_mb": 1.0}
    if value is None:
        return given | {"error": "ValueError: no"}
    names = ["poisson_gain", "poisson_loss"] if thinned else ["rmse_nonzero", "mae_nonzero", "rmse_zero", "rmse_both"]
    return given | {name: value + i for i, name in enumerate(names)} | other


@pytest.fixture
def both(tmp_path: Path) -> pd.DataFrame:
    """Two families of data sets, in which the order of the methods is the other way round."""
    file = _Table(tmp_path / "rows.csv", TASKS["impute"])
    for seed in (0, 1):
        for dataset in ("a_thinning", "b_thinning"):
            for name, kind, value in (("magic", "method", -0.2), ("dca", "method", -0.3), ("knn", "floor", -0.1)):
                file.add(imputed(name, kind, dataset, seed, value + 0.01 * seed))
            file.add(imputed("the truth", "control", dataset, seed, -0.5))
        for name, kind, value in (("magic", "method", 0.6), ("dca", "method", 0.7), ("knn", "floor", 0.8)):
            file.add(imputed(name, kind, "a_uniform", seed, value))
        told = imputed("gene_mean, told", "floor", "a_uniform", seed, 0.1)
        for name in TASKS["impute"].metrics:
            told.pop(name, None)
        file.add(told | {"rmse_known_nonzero": 0.5})
        file.add(imputed("the truth", "control", "a_uniform", seed, 0.0, rmse_known_nonzero=float("nan")))
    return bench.read(tmp_path / "rows.csv")


BY_GAIN, BY_RMSE = "Scores by poisson gain", "Scores by rmse nonzero"


def test_two_families_of_data_sets_have_a_section_each(both: pd.DataFrame):
    page = bench.leaderboard(both)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [f"## {BY_GAIN}", f"## {BY_RMSE}"]
    gain, rmse = (page.partition(f"## {title}")[2].partition("\n## ")[0] for title in (BY_GAIN, BY_RMSE))
    assert "a_uniform" not in gain and "RMSE" not in gain
    assert "thinning" not in rmse and "poisson" not in rmse
    assert "over 2 data sets the best method is **dca** with -0.295; the best floor is **knn** with -0.095" in gain
    assert "over 1 data set the best method is **magic** with 0.600; the best floor is **knn** with 0.800" in rmse


def test_a_family_shows_its_own_scores_in_their_order(both: pd.DataFrame):
    board = cells(bench.leaderboard(both), BY_GAIN)
    assert board[""][1:6] == ["mean poisson gain", "a_thinning poisson gain", "a_thinning poisson loss",
                              "b_thinning poisson gain", "b_thinning poisson loss"]  # fmt: skip
    assert list(board)[2:] == ["the truth", "dca", "magic", "knn"]
    assert board["dca"][1] == "-0.295 ± 0.007"
    other = cells(bench.leaderboard(both), BY_RMSE)
    assert list(other)[2:] == ["the truth", "magic", "dca", "knn", "gene_mean, told"]


def test_what_is_told_that_an_entry_is_not_zero_stands_in_a_column_of_its_own(both: pd.DataFrame):
    board = cells(bench.leaderboard(both), BY_RMSE)
    place = board[""].index("rmse known nonzero")
    assert board["gene_mean, told"][place] == "0.500 ± 0.000"
    assert [line[place] for name, line in board.items() if name in ("magic", "dca", "knn")] == ["", "", ""]
    assert board["gene_mean, told"][1] == ""  # no mean of another score
    page = bench.leaderboard(both)
    assert "**gene_mean, told**" not in page


def test_averages_leave_out_data_sets_that_a_score_cannot_judge(both: pd.DataFrame):
    found = bench.differences(both).set_index(["variant", "floor"])
    assert found.loc[("dca", "knn"), ["difference", "sd", "n_seeds"]].tolist() == pytest.approx([0.2, 0, 2], abs=1e-9)
    other = bench.differences(both, "rmse_nonzero").set_index(["variant", "floor"])
    assert other.loc[("dca", "knn"), ["difference", "sd", "n_seeds"]].tolist() == pytest.approx([0.1, 0, 2], abs=1e-9)
    assert other.loc[("dca", "gene_mean, told"), "n_seeds"] == 0
    assert bench.measured(both)["score"].to_dict() == pytest.approx({"dca": -0.295, "magic": -0.195, "knn": -0.095})


@pytest.mark.parametrize(("fixture", "name", "stays"), [("rows", "deep", False), ("both", "dca", True)])
def test_labels_keep_a_method_out_of_what_is_measured_only_where_they_are_the_truth(request, fixture, name, stays):
    table = request.getfixturevalue(fixture)
    assert name in bench.measured(table).index
    table.loc[table["variant"] == name, "kind"] = "semi-supervised"
    assert (name in bench.measured(table).index) == stays


def test_a_failure_on_a_data_set_that_a_score_can_judge_still_counts(both: pd.DataFrame):
    failed = (both["variant"] == "dca") & (both["dataset"] == "b_thinning")
    both.loc[failed, ["poisson_gain", "poisson_loss"]] = np.nan
    both.loc[failed, "error"] = "ValueError: no"
    assert "dca" not in bench.measured(both).index
    page = bench.leaderboard(both)
    board = cells(page, BY_GAIN)
    assert board["dca"][1] == "" and "failed 2/2" in board["dca"]
    assert "the best method is **magic**" in page.partition(BY_RMSE)[0]
    assert cells(page, BY_RMSE)["dca"][1] == "0.700 ± 0.000"  # and not where it did not fail
