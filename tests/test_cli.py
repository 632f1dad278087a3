"""The command line, word by word: what goes to stdout, what to stderr, and how it ends."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import spatialdata

import scdance as sd
from scdance import bench, datasets, tl
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._core.task import TASKS
from scdance.cli import _kinds, _reader, main

# what spatialdata writes with warns of its own future
spatial = pytest.mark.filterwarnings(
    "ignore:Call to deprecated class Scaler:DeprecationWarning", "ignore:zarr v3 autosharding:UserWarning"
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object on disk: 120 cells of 3 clusters."""
    path = tmp_path_factory.mktemp("cli") / "toy.h5ad"
    adata = datasets.toy_clusters(n_obs=120, n_vars=80, k=3)
    adata.layers["mine"] = adata.X.copy()
    adata.write_h5ad(path)
    return path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call with words that are wrong: exit status 2, nothing on stdout, one line on stderr, which is returned."""

    def call(*words: Any) -> str:
        assert main([str(word) for word in words]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith("scdance: ")
        assert told.err.count("\n") == 1
        assert "Traceback" not in told.err
        return told.err

    return call


def ran(path: Path, key: str = "kmeans") -> dict[str, Any]:
    """The run record of a file."""
    return ad.read_h5ad(path).uns["scdance"]["cluster"][key]


def called(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0


# The program


def test_the_command_is_installed_and_says_its_version(tmp_path: Path):
    command = Path(sys.executable).with_name("scdance")
    run = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout == f"scdance {sd.__version__}\n"
    assert run.stderr == ""


def test_without_a_command_or_with_an_unknown_one_it_names_those_there_are(fails: Callable[..., str]):
    assert "the following arguments are required: COMMAND. `scdance --help` tells more." in fails()
    assert all(name in fails("clutser") for name in ("methods", "datasets", "run", "report", "bench", "demo"))


@pytest.mark.parametrize("words", [["--help"], ["methods", "-h"], ["run", "--help"], ["bench", "--help"]])
def test_help_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: scdance")


def test_ctrl_c_ends_it_quietly(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tl, "cluster", interrupted)
    assert main(["run", "cluster", str(toy), str(toy.with_name("never.h5ad")), "--method", "kmeans"]) == 130
    assert capsys.readouterr() == ("", "")
    assert not toy.with_name("never.h5ad").exists()


def test_logs_go_to_stderr_when_wanted_and_the_logger_is_left_as_it_was(toy: Path, capsys: pytest.CaptureFixture[str]):
    logger, out = logging.getLogger("scdance"), toy.with_name("told.h5ad")
    before = logger.level, list(logger.handlers)
    words = ["run", "cluster", str(toy), str(out), "--method", "kmeans", "--n-clusters", "3"]
    called(*words)
    assert capsys.readouterr() == ("", "")
    for place in (0, len(words)):
        called(*words[:place], "-v", *words[place:])
        told = capsys.readouterr()
        assert told.out == ""
        assert "kmeans: 120 cells × 80 genes" in told.err
    assert (logger.level, list(logger.handlers)) == before


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "from scdance.cli import main; import sys; sys.exit(main(['methods', 'cluster']))"
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


# methods, datasets


@pytest.mark.parametrize("words", [[], ["cluster"]])
def test_methods_lists_them(words: list[str], capsys: pytest.CaptureFixture[str]):
    called("methods", *words)
    told = capsys.readouterr()
    assert told.err == ""
    assert all(f"\n{name} " in told.out for name in registry.names("cluster"))


@pytest.mark.parametrize("name", registry.names("cluster"))
def test_methods_of_a_method_lists_its_options(name: str, capsys: pytest.CaptureFixture[str]):
    called("methods", "cluster", name)
    told, cls = capsys.readouterr().out, registry.get("cluster", name)
    assert "When to use" in told
    assert "Parameters" not in told
    for knob in knobs(cls).values():
        assert f"\n--{knob.name.replace('_', '-')}\n    {knob.text} (" in told
        assert f"; default {knob.default})\n" in told
    assert all(f"\n--preset {preset}\n" in told for preset in cls.presets)


def test_misspelt_tasks_and_methods_are_told_with_the_nearest(fails: Callable[..., str]):
    assert "There is no task 'clutser'" in fails("methods", "clutser")
    assert "Did you mean 'kmeans'?" in fails("methods", "cluster", "kmean")
    assert "Words that this command does not know: more --x" in fails("methods", "cluster", "kmeans", "more", "--x")


def test_datasets_lists_shows_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    called("datasets")
    told = capsys.readouterr().out
    assert all(f"\n{name} " in told for name in datasets.names())
    called("datasets", "pbmc_demo")
    assert "n_obs × n_vars = 800 × 1000" in capsys.readouterr().out
    out = tmp_path / "new" / "pbmc.h5ad"
    called("datasets", "pbmc_demo", out)
    assert capsys.readouterr() == ("", "")
    np.testing.assert_array_equal(ad.read_h5ad(out).X.toarray(), datasets.load("pbmc_demo").X.toarray())
    assert [path.name for path in out.parent.iterdir()] == ["pbmc.h5ad"]


def test_datasets_refuses_what_it_cannot_read_or_write(tmp_path: Path, fails: Callable[..., str]):
    assert "Did you mean 'pbmc_demo'?" in fails("datasets", "pbmc_dem")
    assert "does not end in .h5ad or .zarr, as a file for AnnData must" in fails(
        "datasets", "pbmc_demo", tmp_path / "pbmc.csv"
    )


# run


def test_run_writes_what_the_tool_writes(toy: Path, tmp_path: Path):
    out = tmp_path / "out.h5ad"
    called("run", "cluster", toy, out, "--method", "kmeans", "--n-clusters", "3", "--random-state", "5")
    expected, found = ad.read_h5ad(toy), ad.read_h5ad(out)
    sd.tl.cluster(expected, method="kmeans", n_clusters=3, random_state=5)
    assert found.obs["kmeans"].tolist() == expected.obs["kmeans"].tolist()
    np.testing.assert_array_equal(found.obsm["X_kmeans"], expected.obsm["X_kmeans"])
    assert found.uns["scdance"]["cluster"]["kmeans"]["random_state"] == 5
    assert "kmeans" not in ad.read_h5ad(toy).obs
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


def test_run_may_read_and_write_the_same_file(tmp_path: Path):
    path = tmp_path / "same.h5ad"
    datasets.toy_clusters(n_obs=60, n_vars=40, k=2).write_h5ad(path)
    for _ in range(2):
        called("run", "cluster", path, path, "--method", "kmeans", "--n-clusters", 2)
    assert ad.read_h5ad(path).obs["kmeans"].nunique() == 2


def test_several_names_are_joined_by_commas(tmp_path: Path):
    path = tmp_path / "screen.h5ad"
    datasets.toy_perturbed(200, 40, 3, 2, n_de=10).write_h5ad(path)
    words = ["--perturbation-key", "perturbation", "--method", "additive"]
    called("run", "predict_perturbation", path, path, *words, "--targets", "gene_0+gene_1,gene_2")
    assert list(ad.read_h5ad(path).varm["additive"]) == ["gene_0+gene_1", "gene_2"]


def test_options_take_the_types_of_their_parameters(toy: Path, monkeypatch: pytest.MonkeyPatch):
    given: dict[str, Any] = {}
    original = tl.cluster

    def watched(adata: Any, **words: Any) -> None:
        given.update(words)

    monkeypatch.setattr(tl, "cluster", functools.wraps(original)(watched))
    words = {
        "--n-clusters": "None", "--n-top-genes": "40", "--scale": "TRUE", "--k-method": "stability",
        "--random-state": "7", "--layer": "mine", "--key-added": "7", "--progress": "false", "--checkpoint": "none",
        "--n-components": "-1",
    }  # fmt: skip
    called("run", "cluster", toy, toy.with_name("x.h5ad"), "--method=kmeans", *sum(words.items(), ()))
    assert given == {
        "method": "kmeans", "n_clusters": None, "n_top_genes": 40, "scale": True, "k_method": "stability",
        "random_state": 7, "layer": "mine", "key_added": "7", "progress": False, "checkpoint": None,
        "n_components": -1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hint", "word", "value"),
    [
        (int, "3", 3),
        (float, "1e-3", 1e-3),
        (float | None, "none", None),
        (float | None, "2", 2.0),
        (bool, "False", False),
        (bool | None, "true", True),
        (str | None, "None", None),
        (str, "none", "none"),
        (tuple[int, ...], "64,16", (64, 16)),
        (tuple[int, ...], "64", (64,)),
        (tuple[float, ...] | None, "0.5,2", (0.5, 2.0)),
        (tuple[int, ...], "", ()),
        (Literal["nb", "zinb"], "nb", "nb"),
        (Literal[1, 2], "2", 2),
        (Literal["auto"] | float | None, "auto", "auto"),
        (Literal["auto"] | float | None, "0.7", 0.7),
        (Literal["auto"] | float | None, "none", None),
        (Literal["auto"] | float | None, "often", "often"),
        (int | str, "auto", "auto"),
        (int | str, "4", 4),
        ("int | np.random.Generator | None", "4", 4),
        ("str | Path | None", "4", "4"),
    ],
)
def test_a_word_becomes_the_first_type_that_takes_it(hint: Any, word: str, value: Any):
    found = _reader(_kinds(hint))(word)
    assert found == value
    assert type(found) is type(value)


def test_the_default_method_is_that_of_the_task(toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TASKS, "cluster", dataclasses.replace(TASKS["cluster"], default="kmeans"))
    out = toy.with_name("default.h5ad")
    called("run", "cluster", toy, out, "--n-clusters", 3)
    assert ran(out)["method"] == "kmeans"


def test_options_may_stand_anywhere_and_help_lists_them(toy: Path, capsys: pytest.CaptureFixture[str]):
    out = toy.with_name("anywhere.h5ad")
    called("run", "--n-clusters", "3", "cluster", "--method", "kmeans", toy, "--key-added=mine", out)
    assert ran(out, "mine")["params"]["n_clusters"] == 3
    with pytest.raises(SystemExit):
        main(["run", "cluster", "--method", "leiden", "--help"])
    told = capsys.readouterr().out
    assert "--resolution VALUE" in told
    assert "--n-init" not in told
    assert "``" not in told


def test_a_saved_method_is_taken_by_its_folder(toy: Path, tmp_path: Path, fails: Callable[..., str]):
    adata = ad.read_h5ad(toy)
    model = sd.fit("cluster", adata, method="kmeans", n_clusters=3)
    model.save(tmp_path / "model")
    called("run", "cluster", toy, tmp_path / "out.h5ad", "--method", tmp_path / "model", "--key-added", "again")
    sd.tl.cluster(adata, method=model)
    assert ad.read_h5ad(tmp_path / "out.h5ad").obs["again"].tolist() == adata.obs["kmeans"].tolist()
    told = fails("run", "cluster", toy, tmp_path / "no.h5ad", "--method", tmp_path / "model", "--n-clusters", "4")
    assert "fitted already, so n_clusters cannot be set" in told
    assert "holds no saved method" in fails("run", "cluster", toy, tmp_path / "no.h5ad", "--method", tmp_path)


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_zarr_is_read_and_written_and_replaced(toy: Path, tmp_path: Path):
    words = ["--method", "kmeans", "--n-clusters", 3]
    called("run", "cluster", toy, tmp_path / "a.zarr", *words)
    called("run", "cluster", tmp_path / "a.zarr", tmp_path / "b.zarr", *words, "--key-added", "second")
    called("run", "cluster", tmp_path / "a.zarr", tmp_path / "b.zarr", *words, "--key-added", "third")
    assert {"kmeans", "third"} <= set(ad.read_zarr(tmp_path / "b.zarr").obs)
    assert "second" not in ad.read_zarr(tmp_path / "b.zarr").obs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_wrong_words_are_one_sentence(toy: Path, tmp_path: Path, fails: Callable[..., str]):
    out = tmp_path / "out.h5ad"
    assert "the following arguments are required: TASK, IN, OUT" in fails("run")
    assert "the following arguments are required: OUT" in fails("run", "cluster", toy)
    assert "There is no task 'clutser'" in fails("run", "clutser", toy, out)
    assert "Did you mean 'kmeans'?" in fails("run", "cluster", toy, out, "--method", "kmean")
    run = ("run", "cluster", toy, out, "--method", "kmeans")
    assert "No option `--n-cluster 3`. Did you mean '--n-clusters'?" in fails(*run, "--n-cluster", "3")
    assert "argument --n-clusters: 'three' is not int or none" in fails(*run, "--n-clusters", "three")
    assert "argument --scale: 'yes' is not bool" in fails(*run, "--scale", "yes")
    assert "argument --n-clusters: expected one argument" in fails(*run, "--n-clusters")
    assert "n_clusters=1000, but it must lie between 2 and" in fails(*run, "--n-clusters", "1000")
    assert "kmeans has no preset 'paper'" in fails(*run, "--preset", "paper")
    assert "No 'none of it' in `adata.layers`" in fails(*run, "--layer", "none of it")
    assert "No option `more`" in fails(*run, "more")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path, fails: Callable[..., str]):
    out = tmp_path / "out.h5ad"
    run = lambda path: fails("run", "cluster", path, out, "--method", "kmeans")  # noqa: E731
    assert "There is no " in run(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("no HDF5")
    assert "text.h5ad cannot be read as AnnData" in run(tmp_path / "text.h5ad")
    (tmp_path / "folder").mkdir()
    assert "folder cannot be read as AnnData" in run(tmp_path / "folder")


def test_goals_that_cannot_be_written_are_refused_before_anything_runs(
    toy: Path, tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ad, "read_h5ad", None)
    run = lambda path: fails("run", "cluster", toy, path, "--method", "kmeans")  # noqa: E731
    assert "does not end in .h5ad or .zarr, as a file for AnnData must" in run(tmp_path / "out.csv")
    (tmp_path / "folder.h5ad").mkdir()
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "precious.txt").touch()
    assert "folder.h5ad exists and is no .h5ad" in run(tmp_path / "folder.h5ad")
    assert "folder.zarr exists and is no .zarr" in run(tmp_path / "folder.zarr")
    assert (tmp_path / "folder.zarr" / "precious.txt").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(toy: Path, fails: Callable[..., str]):
    told = fails("run", "cluster", toy, toy / "below" / "out.h5ad", "--method", "kmeans", "--n-clusters", "3")
    assert "Not a directory" in told


# run: other objects, references


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Spots and their reference on disk: cells, and tables of profiles."""
    folder = tmp_path_factory.mktemp("mixed")
    spots, ref = datasets.toy_mixtures(n_obs=20)
    spots.uns.clear()
    profiles = ref.to_df().groupby(ref.obs["cell_type"].astype(str)).mean()
    paths = {name: folder / name for name in ("spots.h5ad", "ref.h5ad", "ref.csv", "ref.tsv", "wrong.csv")}
    spots.write_h5ad(paths["spots.h5ad"])
    ref.write_h5ad(paths["ref.h5ad"])
    profiles.to_csv(paths["ref.csv"])
    profiles.to_csv(paths["ref.tsv"], sep="\t")
    paths["wrong.csv"].write_text("type,gene_1\nT,many\n")
    return paths


@pytest.mark.parametrize(
    ("name", "words"), [("ref.h5ad", ["--labels-key", "cell_type"]), ("ref.csv", []), ("ref.tsv", [])]
)
def test_a_reference_is_read_from_a_file(mixed: dict[str, Path], tmp_path: Path, name: str, words: list[str]):
    out = tmp_path / "out.h5ad"
    called("run", "deconvolve", mixed["spots.h5ad"], out, "--method", "nnls", "--ref", mixed[name], *words)
    expected = ad.read_h5ad(mixed["spots.h5ad"])
    cells = ad.read_h5ad(mixed["ref.h5ad"])
    ref = cells if words else cells.to_df().groupby(cells.obs["cell_type"].astype(str)).mean()
    sd.tl.deconvolve(expected, ref, method="nnls", labels_key="cell_type" if words else None)
    found = ad.read_h5ad(out).obsm["nnls"]
    pd.testing.assert_frame_equal(found, expected.obsm["nnls"], atol=1e-5)


def test_references_that_cannot_be_read_are_one_sentence(
    mixed: dict[str, Path], toy: Path, tmp_path: Path, fails: Callable[..., str]
):
    run = ("run", "deconvolve", mixed["spots.h5ad"], tmp_path / "out.h5ad", "--method", "nnls")
    assert "pass annotated cells as `ref=`" in fails(*run)
    assert "There is no " in fails(*run, "--ref", tmp_path / "none.csv")
    assert "wrong.csv is no table of profiles, one row per type" in fails(*run, "--ref", mixed["wrong.csv"])
    assert "No option `--ref" in fails("run", "cluster", toy, tmp_path / "o.h5ad", "--method", "kmeans", "--ref", toy)
    assert list(tmp_path.iterdir()) == []


def test_a_mudata_is_written_by_datasets_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cite, out = tmp_path / "cite.h5mu", tmp_path / "out.h5mu"
    called("datasets", "cite_demo", cite)
    called("run", "joint_embed", cite, out, "--method", "svd_concat", "--random-state", 3)
    assert capsys.readouterr() == ("", "")
    expected = datasets.load("cite_demo")
    sd.tl.joint_embed(expected, method="svd_concat", random_state=3)
    with mudata.set_options(pull_on_update=False):
        found = mudata.read_h5mu(out)
    np.testing.assert_array_equal(found.obsm["X_svd_concat"], expected.obsm["X_svd_concat"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cite.h5mu", "out.h5mu"]


@spatial
def test_a_spatialdata_is_known_by_its_contents_and_written_anew(mixed: dict[str, Path], tmp_path: Path):
    sdata = spatialdata.SpatialData(tables={"table": ad.read_h5ad(mixed["spots.h5ad"])})
    sdata.write(tmp_path / "s.zarr")
    words = ("--method", "nnls", "--ref", mixed["ref.h5ad"], "--labels-key", "cell_type")
    called("run", "deconvolve", tmp_path / "s.zarr", tmp_path / "out.zarr", *words)
    called("run", "deconvolve", tmp_path / "out.zarr", tmp_path / "out.zarr", *words, "--key-added", "again")
    back = spatialdata.read_zarr(tmp_path / "out.zarr").tables["table"]
    pd.testing.assert_frame_equal(back.obsm["again"], back.obsm["nnls"])
    assert "nnls" not in spatialdata.read_zarr(tmp_path / "s.zarr").tables["table"].obsm
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "s.zarr"]


@spatial
def test_a_goal_of_another_kind_is_refused(tmp_path: Path, fails: Callable[..., str]):
    spatialdata.SpatialData().write(tmp_path / "s.zarr")
    assert "does not end in .h5mu, as a file for MuData must" in fails("datasets", "cite_demo", tmp_path / "c.h5ad")
    run = lambda task, source, goal: fails("run", task, tmp_path / source, tmp_path / goal)  # noqa: E731
    assert "does not end in .h5mu" in run("joint_embed", "a.h5mu", "b.h5ad")
    assert "does not end in .zarr, as a file for SpatialData must" in run("deconvolve", "s.zarr", "b.h5ad")


def test_a_file_of_a_kind_that_the_task_does_not_take_is_one_sentence(
    tmp_path: Path, fails: Callable[..., str], toy: Path
):
    with mudata.set_options(pull_on_update=False):
        datasets.toy_pairs(n_obs=20, n_genes=50, n_proteins=5, k=2).write_h5mu(tmp_path / "m.h5mu")
    run = ("run", "cluster", tmp_path / "m.h5mu", tmp_path / "o.h5mu", "--method", "kmeans")
    assert "Expected AnnData, found MuData. Pass one modality: mdata['rna']" in fails(*run)
    run = ("run", "joint_embed", toy, tmp_path / "o.h5ad", "--method", "pca")
    assert "Expected MuData, found AnnData." in fails(*run)
    (tmp_path / "t.h5mu").write_text("no HDF5")
    run = ("run", "joint_embed", tmp_path / "t.h5mu", tmp_path / "o.h5mu", "--method", "pca")
    assert "t.h5mu cannot be read as MuData" in fails(*run)


# report


def test_report_writes_a_page_beside_the_file_or_where_it_is_told(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
):
    done = tmp_path / "done.h5ad"
    called("run", "cluster", toy, done, "--method", "kmeans", "--n-clusters", "3")
    called("report", done)
    assert capsys.readouterr().out == f"The report is in {tmp_path / 'done.html'}.\n"
    called("report", done, tmp_path / "new" / "page.htm")
    page = (tmp_path / "new" / "page.htm").read_text(encoding="utf-8")
    assert (
        page == (tmp_path / "done.html").read_text(encoding="utf-8") == sd.report(ad.read_h5ad(done), title="done.h5ad")
    )


@spatial
def test_report_reads_mudata_and_spatialdata(mixed: dict[str, Path], tmp_path: Path):
    mdata = datasets.toy_pairs(n_obs=40, n_genes=50, n_proteins=8, k=2)
    sd.tl.joint_embed(mdata, method="svd_concat", n_source=4, n_target=3)
    with mudata.set_options(pull_on_update=False):
        mdata.write_h5mu(tmp_path / "m.h5mu")
    spots = ad.read_h5ad(mixed["spots.h5ad"])
    sd.tl.deconvolve(spots, ad.read_h5ad(mixed["ref.h5ad"]), method="nnls", labels_key="cell_type")
    spatialdata.SpatialData(tables={"table": spots}).write(tmp_path / "s.zarr")
    for name in ("m.h5mu", "s.zarr"):
        called("report", tmp_path / name)
    assert "joint_embed · svd_concat</h2>" in (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "deconvolve · nnls · table</h2>" in (tmp_path / "s.html").read_text(encoding="utf-8")


def test_reports_that_cannot_be_made_are_one_sentence(toy: Path, tmp_path: Path, fails: Callable[..., str]):
    assert "There is no " in fails("report", tmp_path / "none.h5ad")
    assert "The AnnData holds no run record" in fails("report", toy, tmp_path / "page.html")
    assert "page.pdf is no name of a page; pass one that ends in .html or .htm" in fails("report", toy, "page.pdf")
    assert list(tmp_path.iterdir()) == []


# bench, demo


GOLDEN = """
[cluster.kmeans]
variants = { kmeans = {}, "kmeans z-scored" = { scale = true } }
[cluster.kmeans.real.10x_pbmc]
"""


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The jobs that the benchmark runs; run here, without processes."""
    from scdance.bench import _run
    from scdance.bench._cell import row_of

    done: list[dict[str, Any]] = []

    def solved(jobs: list[dict[str, Any]], **given: Any) -> Any:
        for job in jobs:
            done.append(job | given)
            yield job, row_of(job)

    monkeypatch.setattr(_run, "solved", solved)
    return done


def test_bench_runs_a_plan_prints_the_board_and_continues(
    tmp_path: Path, cells: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "golden.toml").write_text(GOLDEN)
    words = ["bench", tmp_path / "golden.toml", tmp_path / "out", "--datasets", "pbmc_demo", "--jobs", "3"]
    words += ["--seeds", "1", "--threads", "2", "--timeout", "50"]
    called(*words, "--measured", tmp_path / "measured")
    told = capsys.readouterr()
    assert told.out == bench.leaderboard(bench.read(tmp_path / "out" / "cluster.csv")) + "\n"
    assert "bench: 6/6 pbmc_demo · kmeans z-scored · estimated · seed 0: ari 0." in told.err
    assert {(job["at_once"], job["threads"], job["timeout"], job["dataset"]) for job in cells} == {
        (3, 2, 50, "pbmc_demo")
    }
    assert (
        (tmp_path / "measured" / "measured_cluster.csv").read_text().startswith("method,score,cpu_seconds\nkmeans,0.")
    )
    called(*words)
    assert len(cells) == 6
    assert "bench: 0 of 6 cells to run" in capsys.readouterr().err


def test_bench_refuses_a_wrong_plan(tmp_path: Path, cells: list[dict[str, Any]], fails: Callable[..., str]):
    (tmp_path / "golden.toml").write_text(GOLDEN)
    assert "There is no file" in fails("bench", tmp_path / "none.toml", tmp_path)
    assert "Did you mean" in fails("bench", tmp_path / "golden.toml", tmp_path / "out", "--datasets", "pbmc_dem")
    assert "0 seeds" in fails("bench", tmp_path / "golden.toml", tmp_path / "out", "--seeds", "0")
    assert "invalid int value: 'x'" in fails("bench", tmp_path / "golden.toml", tmp_path / "out", "--jobs", "x")
    assert cells == []


def test_ctrl_c_in_a_benchmark_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "golden.toml").write_text(GOLDEN)
    monkeypatch.setattr(bench, "run", interrupted)
    assert main(["bench", str(tmp_path / "golden.toml"), str(tmp_path / "out")]) == 130


def test_demo_prints_a_table_of_each_task_and_says_where_the_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    index = pd.MultiIndex.from_tuples([("cluster", "kmeans"), ("deconvolve", "nnls")], names=["task", "method"])
    table = pd.DataFrame({"ari": [0.5, np.nan], "n_clusters": [8.0, np.nan], "rmse": [np.nan, 0.1]}, index=index)
    monkeypatch.setattr(bench, "demo", lambda out: table)
    called("demo", tmp_path / "demo")
    told = capsys.readouterr()
    assert told.err == ""
    first, second, last = told.out.split("\n\n")
    assert first.split() == ["cluster", "ari", "n_clusters", "method", "kmeans", "0.5", "8"]
    assert second.split() == ["deconvolve", "rmse", "method", "nnls", "0.1"]
    assert last.startswith(f"Open {tmp_path / 'demo' / 'index.html'}: ")
    assert last.endswith("A demo's scores are no benchmark.\n")
