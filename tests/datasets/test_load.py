import functools
import hashlib
import http.server
import threading

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scdance import datasets
from scdance._checks import InputError
from scdance._settings import settings
from scdance.datasets import _load

COUNTS = np.random.default_rng(0).poisson(0.5, (30, 12))
LABELS = np.arange(30) % 3 + 1


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


def test_the_demo_is_read_from_the_package_offline(monkeypatch):
    monkeypatch.setattr(settings, "data_dir", None)
    monkeypatch.setattr(settings, "offline", True)
    adata = datasets.load("pbmc_demo")
    assert adata.shape == (800, 1000)
    assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.int32
    assert adata.obs["cell_type"].nunique() == datasets.info("pbmc_demo")["n_classes"]


def test_the_demo_carries_its_credit_and_its_recipe_in_the_file():
    source, entry = datasets.load("pbmc_demo").uns["source"], datasets.info("pbmc_demo")
    assert source["data_licence"] == "CC BY 4.0"
    assert "10x Genomics" in source["data_source"]
    assert {fact: source[fact] for fact in ("data_source", "data_licence", "via", "recipe")} == {
        fact: entry[fact] for fact in ("data_source", "data_licence", "via", "recipe")
    }


def test_the_demo_stays_below_half_a_megabyte():
    assert (_load.HERE / datasets.info("pbmc_demo")["file"]).stat().st_size < 500_000


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


def test_changing_what_info_returns_does_not_change_the_registry():
    datasets.info("worm_neuron")["remote"]["repo"] = "else"
    assert datasets.info("worm_neuron")["remote"]["repo"] != "else"


@pytest.mark.parametrize("name", datasets.names())
def test_every_entry_states_the_facts(name):
    entry = datasets.info(name)
    facts = {"tasks", "description", "file", "sha256", "shape", "labels_key", "n_classes", "preset"}
    assert facts | {"data_source", "data_licence", "via"} <= set(entry)
    assert len(entry["sha256"]) == 64
    if not entry.get("embedded"):
        assert entry["remote"]["reader"] in _load.READERS
        assert len(entry["remote"]["sha256"]) == 64 and len(entry["remote"]["commit"]) == 40


@pytest.mark.real
@pytest.mark.parametrize("name", datasets.names())
def test_every_file_holds_what_its_entry_says(name):
    entry = datasets.info(name)
    if not entry.get("embedded") and _load._in_data_dir(entry) is None:
        pytest.skip(f"{entry['file']} is not in SCDANCE_DATA_DIR")
    adata = datasets.load(name)
    assert list(adata.shape) == entry["shape"]
    assert adata.X.dtype == np.int32
    assert adata.obs[entry["labels_key"]].nunique() == entry["n_classes"]
    assert adata.uns["source"]["data_licence"] == entry["data_licence"]


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
