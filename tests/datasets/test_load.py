import functools
import hashlib
import http.server
import threading

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scdance import datasets
from scdance._checks import InputError
from scdance._settings import settings
from scdance.datasets import _load, _problem

COUNTS = np.random.default_rng(0).poisson(0.5, (30, 12))
LABELS = np.arange(30) % 3 + 1
EMBEDDED = [name for name in datasets.names() if datasets.info(name).get("embedded")]
embedded = pytest.mark.parametrize("name", EMBEDDED)


@pytest.fixture
def no_folder(monkeypatch):
    """Neither a folder of the user nor a network."""
    monkeypatch.setattr(settings, "data_dir", None)
    monkeypatch.setattr(settings, "offline", True)


def modalities(data):
    """The AnnData of each modality by name; of an AnnData its own."""
    return dict(data.mod) if isinstance(data, mudata.MuData) else {"only": data}


def check_facts(data, entry):
    """The shape, kind of numbers, classes and credit that an entry states."""
    found = modalities(data)
    assert list(data.shape) == entry["shape"]
    if isinstance(data, mudata.MuData):
        assert {name: each.n_vars for name, each in found.items()} == entry["modalities"]
    for each in found.values():
        assert sp.isspmatrix_csr(each.X) and each.X.dtype == entry.get("dtype", "int32") and each.X.data.min() > 0
    if "simulated" in entry:
        assert data.obsm["true_prop"].shape[1] == entry["n_classes"]
    elif "mixed" in entry:
        assert np.allclose(data.obsm[entry["mixed"]["truth"]].sum(axis=1), 1)
    elif "labels_key" in entry:
        assert data.obs[entry["labels_key"]].nunique() == entry["n_classes"]
    assert {fact: data.uns["source"][fact] for fact in ("data_source", "data_licence", "via")} == {
        fact: entry[fact] for fact in ("data_source", "data_licence", "via")
    }


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A data set that stands only on a server of ours; the requests it gets are listed."""
    files, seen = tmp_path / "server", []
    original = files / "some" / "repo" / "c0ffee" / "data" / "toy.h5"
    original.parent.mkdir(parents=True)
    with h5py.File(original, "w") as file:
        file["X"], file["Y"] = COUNTS.astype(float), LABELS

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(files)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    entry = {
        "tasks": ["cluster"],
        "description": "a toy",
        "file": "clustering/toy.h5ad",
        "sha256": "0" * 64,
        "shape": list(COUNTS.shape),
        "labels_key": "cell_type",
        "n_classes": 3,
        "preset": "toy",
        "data_source": "us",
        "data_licence": "none",
        "via": "some/repo",
        "remote": {
            "repo": "some/repo",
            "commit": "c0ffee",
            "path": "data/toy.h5",
            "sha256": hashlib.sha256(original.read_bytes()).hexdigest(),
            "reader": "counts_and_labels",
        },
    }
    monkeypatch.setattr(_load, "_registry", lambda: {"toy": entry})
    monkeypatch.setattr(_load, "GITHUB", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(settings, "data_dir", None)
    monkeypatch.setattr(settings, "offline", False)
    yield {"entry": entry, "original": original, "cached": tmp_path / "cache/scdance/toy.h5", "seen": seen}
    server.shutdown()
    thread.join()
    server.server_close()


@embedded
def test_what_is_in_the_package_is_as_its_entry_says_and_needs_no_network(name, no_folder):
    check_facts(datasets.load(name), datasets.info(name))


@embedded
def test_what_is_in_the_package_may_be_given_away_and_carries_its_credit_and_recipe(name):
    source, entry = datasets.load(name).uns["source"], datasets.info(name)
    assert entry["data_licence"] in ("CC BY 4.0", "MIT")
    if "simulated" not in entry:  # its cells are those of another entry
        assert (source["recipe"], source["parent_sha256"]) == (entry["recipe"], entry["parent_sha256"])


def test_what_is_in_the_package_is_small():
    files = {datasets.info(name)["file"] for name in EMBEDDED}
    size = {name: (_load.HERE / name).stat().st_size for name in files}
    assert max(size.values()) < 600_000
    assert sum(size.values()) < 2_000_000


def test_the_folder_of_the_package_holds_what_the_registry_lists():
    listed = {_load.HERE / datasets.info(name)["file"] for name in EMBEDDED}
    assert listed == set((_load.HERE / "data").iterdir())


def test_the_lung_lines_of_both_protocols_are_of_the_same_kinds():
    obs = datasets.load("lung_lines_demo").obs
    by = pd.crosstab(obs["batch"], obs["cell_type"])
    assert by.shape == (5, 5)
    assert by.loc[["sc_celseq2", "sc_dropseq"]].to_numpy().max() == 60
    assert ((by == 0) == (by.loc["sc_dropseq"] == 0)).loc["sc_celseq2"].all()


def log_share(adata):
    return np.log1p(1e4 * adata.X.toarray() / adata.X.sum(axis=1).A1[:, None])


def test_the_mean_profiles_of_one_protocol_tell_the_lung_lines_of_the_other():
    adata = datasets.load("lung_lines_demo")
    one, other = (adata[adata.obs["batch"] == batch] for batch in ("sc_celseq2", "sc_dropseq"))
    x, y = (log_share(each) - log_share(each).mean(axis=0) for each in (one, other))
    lines = one.obs["cell_type"].unique()
    profiles = np.array([x[one.obs["cell_type"] == line].mean(axis=0) for line in lines])
    nearest = ((y[:, None] - profiles) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(np.array(lines)[nearest] == other.obs["cell_type"]) > 0.95


def test_the_modalities_of_the_cite_demo_are_of_the_same_cells():
    mdata = datasets.load("cite_demo")
    for modality in mdata.mod.values():
        assert modality.obs_names.equals(mdata.obs_names)
        pd.testing.assert_frame_equal(modality.obs, mdata.obs)
    assert dict(mdata.obs.groupby("is_train")["batch"].unique().map(list)) == {True: ["s1d1"], False: ["s1d2"]}


@pytest.mark.parametrize(("gene", "protein"), [("CD74", "HLA-DR"), ("NKG7", "CD56"), ("HBB", "CD71")])
def test_genes_and_proteins_of_the_same_cells_go_together(gene, protein):
    mdata = datasets.load("cite_demo")
    one = log_share(mdata["rna"])[:, mdata["rna"].var_names.get_loc(gene)]
    other = log_share(mdata["adt"])[:, mdata["adt"].var_names.get_loc(protein)]
    assert np.corrcoef(one, other)[0, 1] > 0.5


@embedded
def test_what_is_in_the_package_survives_writing(name, tmp_path):
    data = datasets.load(name)
    with mudata.set_options(pull_on_update=False):
        if isinstance(data, mudata.MuData):
            data.write_h5mu(tmp_path / "again.h5mu")
            again = mudata.read_h5mu(tmp_path / "again.h5mu")
        else:
            data.write_h5ad(tmp_path / "again.h5ad")
            again = anndata.read_h5ad(tmp_path / "again.h5ad")
    check_facts(again, datasets.info(name))
    pd.testing.assert_frame_equal(again.obs, data.obs)
    for one, other in zip(modalities(data).values(), modalities(again).values(), strict=True):
        np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())


def test_the_demo_has_clusters_that_kmeans_finds():
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score

    adata = datasets.load("pbmc_demo")
    x = adata.X.toarray() / adata.X.sum(axis=1).A1[:, None]
    z = PCA(30, random_state=0).fit_transform(np.log1p(1e3 * x))
    found = KMeans(8, n_init=5, random_state=0).fit_predict(z)
    assert adjusted_rand_score(adata.obs["cell_type"], found) > 0.5


def test_a_misspelt_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'worm_neuron'"):
        datasets.load("worm_neurons")


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match=r"task is 'clusters'.*Did you mean 'cluster'"):
        datasets.names("clusters")


def test_the_table_has_a_row_for_each_name():
    assert list(datasets.table("cluster").index) == datasets.names("cluster")
    assert datasets.table().loc["pbmc_demo", "shape"] == (800, 1000)


def test_the_table_has_no_number_of_classes_where_there_is_no_truth():
    classes = datasets.table()["classes"]
    assert classes["cite_demo"] == 41
    assert classes["pdac_st"] is pd.NA


def test_changing_what_info_returns_does_not_change_the_registry():
    datasets.info("worm_neuron")["remote"]["repo"] = "else"
    assert datasets.info("worm_neuron")["remote"]["repo"] != "else"


@pytest.mark.parametrize("name", datasets.names())
def test_every_entry_states_the_facts(name):
    entry = datasets.info(name)
    facts = {"tasks", "description", "shape", "preset", "data_source", "data_licence", "via"}
    assert facts <= set(entry)
    assert ("labels_key" in entry) == ("n_classes" in entry)
    assert ("toy" in entry) != ({"file", "sha256"} <= set(entry))
    if "toy" in entry:
        return
    assert len(entry["sha256"]) == 64
    assert ("modalities" in entry) == entry["file"].endswith(".h5mu")
    assert sum(entry.get("modalities", {"all": entry["shape"][1]}).values()) == entry["shape"][1]
    assert not (entry.get("embedded") and "remote" in entry)
    if entry.get("embedded"):
        assert {"recipe", "parent_sha256"} <= set(entry)
    if "remote" in entry:
        assert entry["remote"]["reader"] in _load.READERS
        assert len(entry["remote"]["sha256"]) == 64 and len(entry["remote"]["commit"]) == 40


@pytest.mark.real
@pytest.mark.parametrize("name", datasets.names())
def test_every_file_holds_what_its_entry_says(name):
    entry = datasets.info(name)
    if "toy" not in entry and not entry.get("embedded") and _load._in_data_dir(entry) is None:
        pytest.skip(f"{entry['file']} is not in SCDANCE_DATA_DIR")
    check_facts(datasets.load(name), entry)


def test_a_download_is_read_into_sparse_counts_and_labels(remote):
    adata = datasets.load("toy")
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.int32
    assert list(adata.obs["cell_type"]) == [str(label) for label in LABELS]
    assert adata.uns["source"]["repo"] == "some/repo"


def test_a_download_is_made_once(remote):
    datasets.load("toy")
    datasets.load("toy")
    assert remote["seen"] == ["/some/repo/c0ffee/data/toy.h5"]


def test_a_block_of_rows_at_a_time_gives_the_same(remote, monkeypatch):
    monkeypatch.setattr(_load, "ROWS_PER_READ", 7)
    np.testing.assert_array_equal(datasets.load("toy").X.toarray(), COUNTS)


def test_the_folder_of_the_user_comes_before_the_network(remote, tmp_path, monkeypatch):
    adata = datasets.load("toy")
    path = tmp_path / "mine" / "clustering" / "toy.h5ad"
    path.parent.mkdir(parents=True)
    adata.write_h5ad(path)
    remote["entry"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    remote["seen"].clear()
    remote["cached"].unlink()
    monkeypatch.setattr(settings, "data_dir", str(tmp_path / "mine"))
    again = datasets.load("toy")
    np.testing.assert_array_equal(again.X.toarray(), COUNTS)
    assert dict(again.uns["source"]) == dict(adata.uns["source"])
    assert remote["seen"] == []


def paired(path, **columns):
    """Write two modalities of the same 30 cells, each with these columns of `obs`."""
    obs = pd.DataFrame(columns, index=[f"c{i}" for i in range(30)])
    one = anndata.AnnData(sp.csr_matrix(COUNTS), obs, pd.DataFrame(index=[f"g{i}" for i in range(12)]))
    other = anndata.AnnData(sp.csr_matrix(COUNTS[:, :5]), obs.copy(), pd.DataFrame(index=[f"p{i}" for i in range(5)]))
    path.parent.mkdir(parents=True)
    with mudata.set_options(pull_on_update=False):
        mudata.MuData({"rna": one, "adt": other}).write_h5mu(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def in_my_folder(remote, tmp_path, monkeypatch):
    """A set of two modalities that stands in the folder of the user and nowhere else."""
    entry = remote["entry"]
    entry.pop("remote")
    entry |= {"file": "multimodal/toy.h5mu", "shape": [30, 17], "modalities": {"rna": 12, "adt": 5}}
    entry["sha256"] = paired(tmp_path / entry["file"], cell_type=LABELS.astype(str))
    monkeypatch.setattr(settings, "data_dir", tmp_path)
    return tmp_path / entry["file"]


def test_a_file_of_two_modalities_is_read_with_the_shared_truth(in_my_folder):
    mdata = datasets.load("toy")
    assert {name: each.shape for name, each in mdata.mod.items()} == {"rna": (30, 12), "adt": (30, 5)}
    assert list(mdata.obs) == ["cell_type"]
    assert list(mdata.obs["cell_type"]) == list(LABELS.astype(str))
    assert mdata.uns["source"] == {"data_source": "us", "data_licence": "none", "via": "some/repo"}


def test_loading_leaves_the_options_of_mudata_as_they_were(in_my_folder):
    with mudata.set_options() as options:  # all of them, none changed
        before = dict(options)
        datasets.load("toy")
        assert dict(options) == before


def test_a_damaged_file_of_two_modalities_is_refused(in_my_folder):
    in_my_folder.write_bytes(in_my_folder.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"toy\.h5mu.*expected sha256.*remove it"):
        datasets.load("toy")


def test_what_cannot_be_downloaded_says_which_folder_to_set(in_my_folder, monkeypatch):
    monkeypatch.setattr(settings, "data_dir", None)
    with pytest.raises(datasets.DatasetError) as error:
        datasets.load("toy")
    for part in ("no single file to download", "some/repo", "SCDANCE_DATA_DIR", "now 'None'", "multimodal/toy.h5mu"):
        assert part in str(error.value)


def test_a_damaged_file_in_the_folder_of_the_user_is_refused(remote, tmp_path, monkeypatch):
    path = tmp_path / "clustering" / "toy.h5ad"
    path.parent.mkdir()
    path.write_bytes(b"cut short")
    monkeypatch.setattr(settings, "data_dir", tmp_path)
    found = hashlib.sha256(b"cut short").hexdigest()
    with pytest.raises(InputError, match=rf"toy\.h5ad.*expected sha256 0{{64}}, found {found}.*remove it"):
        datasets.load("toy")


def test_a_damaged_file_in_the_cache_is_refused(remote):
    remote["cached"].parent.mkdir(parents=True)
    remote["cached"].write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"found .*remove it"):
        datasets.load("toy")


def test_a_download_that_is_another_file_is_refused_and_not_kept(remote):
    remote["original"].write_bytes(b"something else")
    with pytest.raises(datasets.DatasetError, match=r"the download failed.*does not match"):
        datasets.load("toy")
    assert not remote["cached"].exists()


def test_a_missing_page_says_what_to_do(remote):
    remote["original"].unlink()
    with pytest.raises(datasets.DatasetError, match=r"404.*SCDANCE_DATA_DIR.*clustering/toy.h5ad"):
        datasets.load("toy")


def test_offline_says_which_file_to_put_where(remote, monkeypatch):
    monkeypatch.setattr(settings, "offline", True)
    with pytest.raises(datasets.DatasetError) as error:
        datasets.load("toy")
    for part in ("work offline", "SCDANCE_DATA_DIR", "/some/repo/c0ffee/data/toy.h5", str(remote["cached"])):
        assert part in str(error.value)
    assert remote["seen"] == []


def test_what_offline_asks_for_works(remote, monkeypatch):
    monkeypatch.setattr(settings, "offline", True)
    remote["cached"].parent.mkdir(parents=True)
    remote["cached"].write_bytes(remote["original"].read_bytes())
    np.testing.assert_array_equal(datasets.load("toy").X.toarray(), COUNTS)


# Problems of annotation: reference and query


@pytest.fixture
def by_chance(monkeypatch):
    """A data set that is cut at random: pbmc_demo under the terms of an entry with a share."""
    entry = {**datasets.info("pbmc_demo"), "tasks": ["annotate"], "split": {"share": 0.7}}
    monkeypatch.setattr(datasets._problem, "info", lambda name: entry)
    monkeypatch.setattr(datasets._problem, "names", lambda task: ["pbmc_demo"])
    return lambda seed: datasets.problem("annotate", "pbmc_demo", random_state=seed)


def test_the_reference_and_the_query_have_no_cell_in_common_and_no_batch():
    given = datasets.problem("annotate", "lung_lines_demo")
    ref, whole = given.arguments["ref"], datasets.load("lung_lines_demo")
    assert not set(ref.obs_names) & set(given.data.obs_names)
    assert {*ref.obs_names, *given.data.obs_names} == set(whole.obs_names)
    batches = [set(whole.obs["batch"][part.obs_names]) for part in (ref, given.data)]
    assert batches[0] == set(datasets.info("lung_lines_demo")["split"]["ref"]) and not batches[0] & batches[1]


def test_the_query_holds_no_truth_and_nothing_else_that_may_tell_it():
    given = datasets.problem("annotate", "lung_lines_demo")
    ref, whole = given.arguments["ref"], datasets.load("lung_lines_demo")
    for part in (given.data, ref):
        assert not part.uns and not part.obsm and not part.obsp and part.raw is None and not part.is_view
        np.testing.assert_array_equal(part.X.toarray(), whole[part.obs_names].X.toarray())
    assert list(given.data.obs) == [] and list(ref.obs) == [given.arguments["labels_key"]] == ["cell_type"]
    assert given.truth.index.equals(given.data.obs_names)
    assert (given.truth.astype(str) == whole.obs["cell_type"][given.data.obs_names].astype(str)).all()
    assert (ref.obs["cell_type"].astype(str) == whole.obs["cell_type"][ref.obs_names].astype(str)).all()


def test_a_random_split_is_decided_by_its_seed(by_chance):
    one, again, other = (by_chance(seed) for seed in (0, 0, 1))
    assert list(one.data.obs_names) == list(again.data.obs_names) != list(other.data.obs_names)
    assert one.truth.equals(again.truth)
    for given in (one, other):
        ref = given.arguments["ref"]
        assert (ref.n_obs, given.data.n_obs) == (560, 240)
        assert not set(ref.obs_names) & set(given.data.obs_names)


def test_a_split_by_a_column_does_not_depend_on_the_seed():
    one, other = (datasets.problem("annotate", "lung_lines_demo", random_state=seed) for seed in (0, 1))
    assert list(one.data.obs_names) == list(other.data.obs_names)


def test_cells_of_other_values_are_left_out_of_both_parts():
    whole = datasets.load("pbmc_demo")
    whole.obs["kit"] = np.where(np.arange(800) % 4 == 0, "bad", "good")
    whole.obs["half"] = np.where(np.arange(800) < 500, "one", "two")
    parts = datasets._problem._split(whole, {"only": {"kit": ["good"]}, "key": "half", "ref": ["one"]}, 0)
    assert [part.n_obs for part in parts] == [375, 225]
    assert all((part.obs["kit"] == "good").all() for part in parts)


def test_every_split_names_columns_or_a_share():
    for name in datasets.names("annotate"):
        split = datasets.info(name)["split"]
        assert set(split) - {"only"} in ({"share"}, {"key", "ref"})


# Problems of imputation: what is hidden


IMPUTED = [name for name in datasets.names("impute") if datasets.info(name).get("embedded")]


@pytest.fixture
def hiding(monkeypatch):
    """The problem of pbmc_demo with counts hidden in another way."""

    def given(seed=0, **how):
        entry = {**datasets.info("pbmc_demo"), "tasks": ["impute"], "hidden": how}
        monkeypatch.setattr(datasets._problem, "info", lambda name: entry)
        monkeypatch.setattr(datasets._problem, "names", lambda task: ["pbmc_demo"])
        return datasets.problem("impute", "pbmc_demo", random_state=seed)

    return given


def test_an_entry_has_what_stands_in_the_one_it_is_of_and_nothing_of_its_tasks():
    for name in datasets.names("impute"):
        entry = datasets.info(name)
        other = datasets.info(entry["of"])
        assert "of" not in other
        assert entry["tasks"] == ["impute"] != other["tasks"]
        assert all(entry.get(part) == other.get(part) for part in ("file", "sha256", "shape", "toy"))
        assert entry["description"] != other["description"]


@pytest.mark.parametrize("name", IMPUTED)
def test_a_data_set_with_hidden_counts_loads_with_all_of_them(name):
    one, other = datasets.load(name), datasets.load(datasets.info(name)["of"])
    assert (one.X != other.X).nnz == 0
    assert one.obs.equals(other.obs)


@pytest.mark.parametrize("name", IMPUTED)
def test_the_problem_holds_what_is_left_and_the_truth_stands_apart(name):
    given, whole = datasets.problem("impute", name), datasets.load(name)
    data = given.data
    assert not data.uns and not data.obsm and not data.varm and not data.layers and data.raw is None
    assert (list(data.obs), list(data.var), data.is_view) == ([], [], False)
    assert data.obs_names.equals(whole.obs_names) and data.var_names.equals(whole.var_names)
    assert (given.truth != whole.X).nnz == 0
    held_out = given.truth - data.X
    assert held_out.min() == 0
    assert held_out.sum() / given.truth.sum() == pytest.approx(0.1, abs=0.002)
    assert given.arguments == {"output": "counts", "policy": "replace"}


def test_the_seed_decides_what_is_hidden():
    one, again, other = (datasets.problem("impute", IMPUTED[0], random_state=seed).data.X for seed in (1, 1, 2))
    assert (one != again).nnz == 0
    assert (one != other).nnz > 0


@pytest.mark.parametrize("protocol", ["uniform", "exponential"])
def test_whole_entries_are_judged_as_logarithms(hiding, protocol):
    given = hiding(protocol=protocol, rate=0.1)
    assert given.arguments == {"output": "log1p", "policy": "replace"}
    held_out = given.truth - given.data.X
    assert held_out.multiply(given.data.X).nnz == 0
    hidden, there = np.diff(held_out.tocsr().indptr), np.diff(given.truth.indptr)
    assert (hidden == there // 10).all()


def test_genes_are_chosen_before_counts_are_hidden_and_by_all_of_them(hiding):
    given = hiding(protocol="uniform", rate=0.5, n_top_genes=50)
    other = hiding(seed=1, protocol="uniform", rate=0.5, n_top_genes=50)
    assert given.data.shape == given.truth.shape == (800, 50)
    assert given.data.var_names.equals(other.data.var_names)
    whole = datasets.load("pbmc_demo")
    assert (given.truth != whole[:, given.data.var_names].X).nnz == 0


def test_all_that_is_hidden_is_hidden_in_a_way_there_is():
    from scdance.pp import mask

    for name in datasets.names("impute"):
        how = dict(datasets.info(name)["hidden"])
        assert how.pop("n_top_genes", 1) > 0
        mask(sp.csr_matrix(COUNTS), rng=np.random.default_rng(0), **how)


# Problems of label transfer: a reference of which some cells have labels, and other cells


@pytest.fixture
def transferred(monkeypatch):
    """The problem of cells of one protocol with few labels, asked for those of another; or of two modalities."""
    names = [f"cell_{i}" for i in range(200)]
    obs = pd.DataFrame({"kind": pd.Categorical(np.repeat(["a", "b", "c"], [150, 48, 2])), "kit": ["one", "two"] * 100})
    obs.index = names
    rng = np.random.default_rng(0)
    rna = anndata.AnnData(sp.csr_matrix(rng.poisson(1.0, (200, 6))), obs, pd.DataFrame(index=list("ABCDEF")))
    atac = anndata.AnnData(sp.csr_matrix(rng.poisson(1.0, (200, 9))), obs.copy())
    atac.varm["link"], atac.uns["link_genes"] = sp.csr_matrix(np.eye(9, 6)), np.array(list("ABCDEF"))
    for each in (rna, atac):
        each.obsm["X_kind"] = pd.get_dummies(obs["kind"]).to_numpy(dtype=float)
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": rna, "atac": atac[::-1].copy()})
    both.obs["kind"] = obs["kind"].reindex(both.obs_names)
    sides = {
        "key": {"key": "kit", "ref": ["one"], "cells": ["two"]},
        "halves": {"ref": "rna", "cells": "atac", "link": "link"},
    }

    def given(how, share, seed=0):
        entry = {"tasks": ["transfer_labels"], "labels_key": "kind", "transfer": {**sides[how], "share": share}}
        monkeypatch.setattr(_problem, "info", lambda name: entry)
        monkeypatch.setattr(_problem, "names", lambda task: ["toy"])
        monkeypatch.setattr(_problem, "load", lambda name: rna.copy() if how == "key" else both)
        return datasets.problem("transfer_labels", "toy", seed), obs["kind"]

    return given


@pytest.mark.parametrize("how", ["key", "halves"])
def test_a_share_of_the_reference_has_labels_and_each_type_one(transferred, how):
    given, kinds = transferred(how, 0.02)
    ref, key = given.arguments["ref"], given.arguments["labels_key"]
    known = ref.obs[key].dropna()
    assert len(ref) == 100 == len(given.data) and not set(ref.obs_names) & set(given.data.obs_names)
    assert (known.astype(str) == kinds[known.index].astype(str)).all()
    assert set(known) == set(kinds[ref.obs_names]) and 2 <= len(known) <= 4


@pytest.mark.parametrize("how", ["key", "halves"])
def test_nothing_is_left_of_labels_that_are_hidden_and_of_those_that_are_asked(transferred, how):
    given, kinds = transferred(how, 0.2)
    ref = given.arguments["ref"]
    for part in (given.data, ref):
        assert not part.uns and not part.obsm and not part.obsp and not part.varm and not part.layers
        assert part.raw is None and not part.is_view and list(part.var) == []
    assert list(given.data.obs) == [] and list(ref.obs) == ["kind"]
    assert ref.obs["kind"].notna().sum() in (20, 21)  # one more for the rarest type
    assert given.truth.index.equals(given.data.obs_names)
    assert (given.truth.astype(str) == kinds[given.data.obs_names].astype(str)).all()


def test_the_cells_that_are_asked_have_genes_and_the_counts_of_their_peaks(transferred):
    given, _ = transferred("halves", 0.1)
    whole = _problem.load("toy")
    assert list(given.data.var_names) == list(given.arguments["ref"].var_names) == list("ABCDEF")
    expected = whole["atac"][given.data.obs_names].X.toarray()[:, :6]
    np.testing.assert_array_equal(given.data.X.toarray(), expected)


@pytest.mark.parametrize("how", ["key", "halves"])
def test_the_seed_decides_which_labels_are_given_and_more_include_fewer(transferred, how):
    few, again, more = (set(known(transferred(how, share))) for share in (0.1, 0.1, 0.2))
    assert few == again < more
    assert few != set(known(transferred(how, 0.1, seed=1)))


def known(given):
    return given[0].arguments["ref"].obs["kind"].dropna().index


@pytest.mark.real
@pytest.mark.parametrize("name", datasets.names("transfer_labels"))
def test_every_reference_has_its_share_of_labels_and_every_type_that_is_asked(name):
    entry = datasets.info(name)
    if _load._in_data_dir(entry) is None:
        pytest.skip(f"{entry['file']} is not in SCDANCE_DATA_DIR")
    given = datasets.problem("transfer_labels", name)
    labels = given.arguments["ref"].obs[entry["labels_key"]]
    assert entry["transfer"]["share"] <= labels.notna().mean() + 0.001 < entry["transfer"]["share"] + 0.01
    assert set(given.truth) <= set(labels.dropna())
    assert list(given.data.obs) == []


# Mixtures in known shares


@pytest.fixture
def plates(monkeypatch):
    """Regions of two plates, one of them of twice the depth: 2 types, mixed or pure, each region of its own depth."""
    rng = np.random.default_rng(0)
    share = np.array([1, 0.6, 0.2, 0, 1, 0.5, 0])
    profiles = rng.gamma(2, 20, (2, 40))
    depth = rng.uniform(0.5, 2, (7, 1))
    counts = depth * (share[:, None] * profiles[0] + (1 - share[:, None]) * profiles[1])
    names = ["P1-a", "P1-b", "P1-c", "P1-d", "P2-a", "P2-b", "P2-c"]
    data = anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), pd.DataFrame({"area": depth[:, 0]}, index=names))
    data.obsm["shares"] = pd.DataFrame({"one": share, "two": 1 - share}, index=names)
    data.uns["source"] = {"data_source": "us"}
    entry = {"tasks": ["deconvolve"], "mixed": {"truth": "shares", "plate": "P1-"}}
    monkeypatch.setattr(datasets._problem, "info", lambda name: entry)
    monkeypatch.setattr(datasets._problem, "names", lambda task: ["toy"])
    monkeypatch.setattr(datasets._problem, "load", lambda name: data.copy())
    return data


def test_mixtures_of_a_plate_are_asked_and_its_own_pure_regions_are_not_told(plates):
    given = datasets.problem("deconvolve", "toy")
    assert list(given.data.obs_names) == list(given.truth.index) == ["P1-b", "P1-c"]
    assert given.truth["one"].tolist() == [0.6, 0.2]
    assert not given.data.uns and not given.data.obsm and list(given.data.obs) == []
    ref, pure = given.arguments["ref"], plates[["P2-a", "P2-c"]].X.toarray()
    assert given.arguments["labels_key"] == "cell_type"
    assert ref.obs["cell_type"].tolist() == ["one", "two"]
    found = ref.X.toarray()
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), pure / pure.sum(1)[:, None], 1e-5)


def test_mixtures_and_pure_regions_have_one_upper_quartile(plates):
    given = datasets.problem("deconvolve", "toy")
    quartile = np.quantile(plates.X.toarray(), 0.75, axis=1).mean()
    for values in (given.data.X.toarray(), given.arguments["ref"].X.toarray()):
        np.testing.assert_allclose(np.quantile(values, 0.75, axis=1), quartile, rtol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("name", ["geomx_plate_1", "geomx_plate_2"])
def test_regions_of_a_plate_are_told_by_those_of_the_other(name):
    if _load._in_data_dir(datasets.info(name)) is None:
        pytest.skip("the file is not in SCDANCE_DATA_DIR")
    given = datasets.problem("deconvolve", name)
    assert given.data.shape == (20, 1414)
    assert given.arguments["ref"].obs["cell_type"].value_counts().tolist() == [4, 4]
    assert given.truth.max(axis=None) < 1
