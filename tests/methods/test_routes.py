"""Adapters to other packages: what they hand over and take back, with stand-ins for the packages."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mudata
import numpy as np
import pytest
from scipy.sparse import block_diag, csr_matrix, diags

import scdance as sd
from scdance._checks import MissingPackageError, ScdanceError
from scdance._core import registry
from scdance._core.adapter import contained, set_for_now
from scdance._core.task import TASKS
from scdance.graph import fuzzy, knn
from scdance.methods.joint_embed.wnn import walk_space
from scdance.methods.match_modality.glue import guidance
from scdance.testing import Trial

ROUTES = [(task, name) for task in TASKS for name in registry.names(task) if registry.get(task, name).route]
N, LONE = 60, 12  # cells, and how many of them lack one modality: half of these the proteins, half the RNA


@pytest.fixture
def mdata() -> mudata.MuData:
    made = sd.datasets.toy_pairs(n_obs=N, n_genes=50, n_proteins=8, unpaired=LONE / N, random_state=0)
    made.obs["donor"] = np.resize(["b", "a"], N)
    return made


def has(mdata: mudata.MuData, name: str) -> np.ndarray:
    """Which cells have a modality."""
    return np.ravel(mdata.obsm[name]).astype(bool)


def stand_in(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """Put modules in the place of packages, by their dotted names with "__" for the dot."""
    for name, content in parts.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


# ---------------------------------------------------------------------- without the packages


def toy(task: str) -> tuple[Any, dict[str, Any]]:
    """An object for the tool of a task, and all that its routes may need."""
    if task == "integrate":
        return sd.datasets.toy_clusters(n_obs=40, n_vars=30, k=2, n_de=5, batches=2), {"batch_key": "batch"}
    if task == "predict_genes":
        panel, ref = sd.datasets.toy_panel(n_obs=40, n_vars=40, n_panel=30)
        return panel, {"ref": ref}
    return sd.datasets.toy_pairs(n_obs=N, n_genes=50, n_proteins=8), {}


@pytest.mark.parametrize(("task", "name"), ROUTES)
def test_without_its_package_a_route_is_listed_and_says_what_to_install(task, name, monkeypatch):
    cls, (data, given) = registry.get(task, name), toy(task)
    assert sd.methods(task).loc[name, "kind"] == "route"
    ((package, extra),) = cls.extras
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError, match=rf"{name} needs the package '{package}': pip install 'scdance\[{extra}\]'"
    ):
        getattr(sd.tl, task)(data, method=name, **given)
    assert not {name, "X_" + name} & {*data.obsm}


@pytest.mark.parametrize(("task", "name"), ROUTES)
def test_the_package_of_a_route_is_in_an_extra(task, name):
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    listed = {"scvi": "scvi-tools", "tangram": "tangram-sc"}
    for package, extra in registry.get(task, name).extras:
        wanted = listed.get(package, package)
        assert any(line.startswith(wanted) for line in extras["optional-dependencies"][extra])


@pytest.mark.parametrize("check", ["documents_its_knobs", "says_when_to_use_it", "constructs"])
@pytest.mark.parametrize(("task", "name"), ROUTES)
def test_the_words_of_a_route_need_no_package(task, name, check):
    Trial(name, task).run(check)


@pytest.mark.parametrize(("task", "name"), ROUTES)
def test_listing_the_methods_imports_no_package_of_a_route(task, name):
    ((package, _),) = registry.get(task, name).extras
    if package not in sys.modules:
        sd.methods(task)
        assert package not in sys.modules


# ---------------------------------------------------------------------- weighted nearest neighbours


def of_muon(given: list[Any]) -> dict[str, Any]:
    def neighbors(mdata, n_neighbors, *, n_multineighbors, n_bandwidth_neighbors, random_state):
        given.append(mdata.copy())
        assert n_multineighbors < mdata.n_obs
        z = np.hstack([mdata[name].obsm["z"] for name in ("source", "target")])
        mdata.obsp["connectivities"] = fuzzy(knn(z, n_neighbors))
        for name, weight in (("source", 0.25), ("target", 0.75)):
            mdata.obs[f"{name}:mod_weight"] = weight

    return {"pp": SimpleNamespace(neighbors=neighbors)}


def test_wnn_hands_over_components_and_their_neighbours(mdata, monkeypatch):
    given: list[Any] = []
    stand_in(monkeypatch, muon=of_muon(given))
    sd.tl.joint_embed(mdata, "wnn", n_source=10, n_neighbors=5, n_components=4)
    (seen,) = given
    assert seen.n_obs == N - LONE
    for name, n in (("source", 10), ("target", 8)):
        z, told = seen[name].obsm["z"], seen[name].uns["neighbors"]
        assert z.shape == (N - LONE, n)
        np.testing.assert_allclose((z**2).mean(axis=1), 1, rtol=1e-4)
        assert told["params"]["use_rep"] == "z"
        off = np.linalg.norm(z[:, None] - z[None], axis=2)
        there = seen[name].obsp[told["distances_key"]].toarray() > 0
        np.testing.assert_array_equal(there.sum(axis=1), 5)
        assert (np.where(there, off, 0).max(axis=1) <= np.sort(off, axis=1)[:, 5] + 1e-4).all()
    notes = mdata.uns["scdance"]["joint_embed"]["wnn"]["notes"]
    assert (notes["mean_weight_of_source"], notes["n_foretold"]) == (0.25, LONE)
    z = mdata.obsm["X_wnn"]
    assert z.shape == (N, 4)
    assert np.isfinite(z).all()


def test_cells_outside_the_graph_are_placed_by_their_own_modality(monkeypatch):
    mdata = sd.datasets.toy_pairs(n_obs=300, unpaired=0.1)
    stand_in(monkeypatch, muon=of_muon([]))
    sd.tl.joint_embed(mdata, "wnn", n_components=3)
    z, types = mdata.obsm["X_wnn"], mdata.obs["cell_type"].to_numpy()
    lone = ~(has(mdata, "rna") & has(mdata, "prot"))
    centers = np.stack([z[~lone & (types == t)].mean(axis=0) for t in np.unique(types)])
    nearest = np.unique(types)[((z[lone][:, None] - centers) ** 2).sum(axis=-1).argmin(axis=1)]
    assert (nearest == types[lone]).mean() > 0.8


def test_the_space_of_a_graph_is_the_sum_over_all_its_walks():
    a = fuzzy(knn(np.random.default_rng(0).normal(size=(40, 3)), 6))
    a = csr_matrix(a + diags(np.ravel(a.sum(axis=1))))  # half of the steps stay: no eigenvalue is below 0
    z = walk_space(a, 39, np.random.default_rng(1))
    a = a.toarray().astype(np.float64)
    p, steady = a / a.sum(axis=1, keepdims=True), a.sum(axis=0) / a.sum()
    walks, step = np.zeros_like(p), np.eye(40)
    for _ in range(40):
        step = step @ p
        walks += step - steady
    # distances between rows of the sum of all walks, each place weighted by how rarely it is visited
    rows = walks / np.sqrt(steady)
    expected = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    found = np.linalg.norm(z[:, None] - z[None], axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_pieces_of_a_graph_lie_apart():
    parts = [fuzzy(knn(np.random.default_rng(i).normal(size=(20, 3)), 5)) for i in range(3)]
    z = walk_space(csr_matrix(block_diag(parts)), 5, np.random.default_rng(0))
    piece = np.repeat(range(3), 20)
    centers = np.stack([z[piece == i].mean(axis=0) for i in range(3)])
    within = max(np.linalg.norm(z[piece == i] - centers[i], axis=1).max() for i in range(3))
    between = min(np.linalg.norm(centers[i] - centers[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert np.isfinite(z).all()
    assert between > within


# ---------------------------------------------------------------------- factors


class Factors:
    """In the place of the entry point of mofapy2: factors are the means of both views, and the number of the group."""

    last: Any = None

    def __init__(self):
        type(self).last = self
        print("banner")  # noqa: T201, as the package does
        self.model = SimpleNamespace(trained=False, nodes={})

    def set_data_options(self):
        pass

    def set_data_matrix(self, data, *, likelihoods, views_names, groups_names, samples_names, features_names):
        self.data, self.groups, self.samples = data, groups_names, samples_names
        assert [len(names) for names in features_names] == [parts[0].shape[1] for parts in data]
        assert likelihoods == ["gaussian"] * 2

    def set_model_options(self, *, factors, **_):
        self.n = factors

    def set_train_options(self, **options):
        self.options = options

    def build(self):
        pass

    def run(self):
        z = np.zeros((sum(map(len, self.samples)), self.n))
        for i, parts in enumerate(self.data):
            z[:, i] = np.nan_to_num(np.concatenate(parts)).mean(axis=1)
        z[:, 2] = np.repeat(range(len(self.groups)), [len(names) for names in self.samples])
        self.model = SimpleNamespace(trained=True, nodes={"Z": SimpleNamespace(getExpectation=lambda: z)})


@pytest.fixture
def of_mofa(monkeypatch) -> type[Factors]:
    entry = {"entry_point": Factors}
    stand_in(monkeypatch, mofapy2={}, mofapy2__run={}, mofapy2__run__entry_point=entry)
    return Factors


def test_mofa_sees_all_cells_and_no_value_where_a_modality_lacks(mdata, of_mofa, capsys):
    sd.tl.joint_embed(mdata, "mofa", n_factors=3)
    rna, prot = (parts[0] for parts in of_mofa.last.data)
    np.testing.assert_array_equal(np.isnan(rna).all(axis=1), ~has(mdata, "rna"))
    np.testing.assert_array_equal(np.isnan(prot).any(axis=1), ~has(mdata, "prot"))
    assert (np.nanstd(rna, axis=0) > 0).all()
    assert mdata.uns["scdance"]["joint_embed"]["mofa"]["notes"]["n_foretold"] == 0
    np.testing.assert_allclose(mdata.obsm["X_mofa"][:, 1], np.nan_to_num(prot).mean(axis=1), rtol=1e-5)
    assert of_mofa.last.options["seed"] == 0
    assert capsys.readouterr().out == ""


def test_batches_are_groups_and_come_back_in_the_order_of_the_cells(mdata, of_mofa):
    sd.tl.joint_embed(mdata, "mofa", n_factors=3, batch_key="donor")
    sizes = [len(names) for names in of_mofa.last.samples]
    assert sizes == [N // 2, N // 2]
    # groups go by the names of the batches, "a" before "b"
    np.testing.assert_array_equal(mdata.obsm["X_mofa"][:, 2], (mdata.obs["donor"] == "b").astype(float))


def test_a_factor_analysis_that_was_interrupted_interrupts(mdata, of_mofa, monkeypatch):
    monkeypatch.setattr(Factors, "run", lambda self: None)  # the package swallows Ctrl-C and leaves `trained` unset
    with pytest.raises(KeyboardInterrupt):
        sd.tl.joint_embed(mdata, "mofa")
    assert "X_mofa" not in mdata.obsm


# ---------------------------------------------------------------------- scvi-tools


class Settings:
    """Settings of scvi-tools: to set the seed leaves traces, as in the package."""

    _seed: int | None = None

    @property
    def seed(self):
        return self._seed

    @seed.setter
    def seed(self, value):
        self._seed = value
        if value is not None:
            os.environ["PL_GLOBAL_SEED"] = str(value)
            os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --deterministic"


class Model:
    """In the place of a model of scvi-tools: a place is the sums of the counts of each modality."""

    last: Any = None

    def __init__(self, data, *, n_latent, **size):
        type(self).last = self
        self.data, self.n, self.size, self.history = data, n_latent, size, {}

    @classmethod
    def from_scvi_model(cls, start, *, unlabeled_category):
        made = cls(start.data, n_latent=start.n)
        made.start, made.unlabelled = start, unlabeled_category
        return made

    @classmethod
    def setup_anndata(cls, adata, **keys):
        cls.keys = keys

    @classmethod
    def setup_mudata(cls, mdata, **keys):
        cls.keys = keys

    def train(self, **how):
        self.how, self.seed = how, sys.modules["scvi"].settings.seed
        self.history = {"elbo_train": np.zeros((how["max_epochs"], 1)), "kl_weight": np.zeros((2, 1))}

    def get_latent_representation(self):
        z, data = np.zeros((self.data.n_obs, self.n)), self.data
        parts = [each.X for each in data.mod.values()] if hasattr(data, "mod") else [data.X, *data.obsm.values()]
        for i, part in enumerate(parts):
            z[:, i] = np.asarray(part.sum(axis=1)).ravel()
        return z


MODELS = ("TOTALVI", "MULTIVI", "SCVI", "SCANVI")


@pytest.fixture
def of_scvi(monkeypatch) -> type[Model]:
    stand_in(monkeypatch, scvi={"settings": Settings(), "model": SimpleNamespace(**dict.fromkeys(MODELS, Model))})
    return Model


def depths(mdata: mudata.MuData, name: str) -> np.ndarray:
    """Counts of each cell in a modality, 0 where it lacks that."""
    sums = np.asarray(mdata[name].X.sum(axis=1)).ravel()
    at = mdata[name].obs_names.get_indexer(mdata.obs_names)
    return np.where(at >= 0, sums[at], 0)


def test_totalvi_sees_counts_of_cells_with_rna_and_those_without_proteins_as_a_batch(mdata, of_scvi):
    sd.tl.joint_embed(mdata, "totalvi", n_latent=3, epochs=7, batch_key="donor")
    adata, there = of_scvi.last.data, has(mdata, "rna")
    assert adata.n_obs == there.sum()
    assert of_scvi.keys == {"protein_expression_obsm_key": "proteins", "batch_key": "batch"}
    assert np.issubdtype(adata.X.dtype, np.floating)
    assert (adata.X.data == np.round(adata.X.data)).all()
    without = adata.obs["batch"].str.contains("without").to_numpy()
    np.testing.assert_array_equal(without, ~has(mdata, "prot")[there])
    assert (adata.obsm["proteins"][without] == 0).all()
    assert adata.obs["batch"].nunique() == 4  # two donors, with and without proteins
    z = mdata.obsm["X_totalvi"]
    np.testing.assert_allclose(z[there, 0], depths(mdata, "rna")[there])
    np.testing.assert_allclose(z[there, 1], depths(mdata, "prot")[there])
    assert np.isfinite(z).all()
    record = mdata.uns["scdance"]["joint_embed"]["totalvi"]
    assert (record["notes"]["n_foretold"], record["epochs"]) == (LONE // 2, 7)
    assert set(record["history"]) == {"elbo_train"}


def test_multivi_sees_all_cells_with_zeros_where_a_modality_lacks(mdata, of_scvi):
    sd.tl.joint_embed(mdata, "multivi", n_latent=3, epochs=2, source="prot", target="rna", batch_key="donor")
    seen = of_scvi.last.data
    assert list(seen.mod) == ["rna", "prot"]  # the order of the model, whatever that of the call
    layers = {"rna_layer": "rna", "protein_layer": "prot", "batch_key": "rna"}
    assert of_scvi.keys == {"batch_key": "batch", "modalities": layers}
    assert [each.n_obs for each in seen.mod.values()] == [N, N]
    names = np.array(["a", "b"])[seen["rna"].obs["batch"].astype(int)]
    np.testing.assert_array_equal(names, mdata.obs["donor"])
    z = mdata.obsm["X_multivi"]
    for i, name in enumerate(("rna", "prot")):
        np.testing.assert_allclose(z[:, i], depths(mdata, name))


def test_chromatin_goes_into_its_own_layer(mdata, of_scvi):
    with mudata.set_options(pull_on_update=False):
        other = mudata.MuData({"rna": mdata["rna"].copy(), "peaks": mdata["prot"].copy()})
    sd.tl.joint_embed(other, "multivi", n_latent=2, epochs=2)
    assert of_scvi.keys["modalities"] == {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
    with pytest.raises(
        ValueError, match=r"totalvi joins RNA with proteins, but these modalities are rna, atac.*multivi"
    ):
        sd.tl.joint_embed(other, "totalvi")


def test_two_modalities_of_one_kind_are_refused(mdata, of_scvi):
    second = mdata["rna"][:, :20].copy()
    second.var_names = [f"other_{i}" for i in range(20)]
    with mudata.set_options(pull_on_update=False):
        other = mudata.MuData({"rna": mdata["rna"].copy(), "gex": second})
    with pytest.raises(ValueError, match="multivi joins two kinds"):
        sd.tl.joint_embed(other, "multivi")


def test_the_seed_goes_the_way_of_the_package_and_leaves_no_trace(mdata, of_scvi, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    sys.modules["scvi"].settings._seed = 5
    sd.tl.joint_embed(mdata, "multivi", n_latent=2, epochs=2, random_state=3)
    assert of_scvi.last.seed == 3
    assert sys.modules["scvi"].settings.seed == 5
    assert os.environ["XLA_FLAGS"] == "--mine"
    assert "PL_GLOBAL_SEED" not in os.environ


@pytest.mark.parametrize(
    ("device", "accelerator", "devices"),
    [("cpu", "cpu", 1), ("cuda", "gpu", 1), ("cuda:2", "gpu", [2]), ("auto", "auto", 1)],
)
def test_the_device_is_named_as_the_package_does(mdata, of_scvi, device, accelerator, devices):
    sd.tl.joint_embed(mdata, "multivi", n_latent=2, epochs=2, device=device)
    assert (of_scvi.last.how["accelerator"], of_scvi.last.how["devices"]) == (accelerator, devices)


@pytest.mark.parametrize(
    ("knobs", "said"), [({"lr": 0.0}, "lr"), ({"epochs": 0}, "epochs"), ({"device": "abacus"}, "device")]
)
def test_numbers_out_of_range_are_refused(mdata, of_scvi, knobs, said):
    with pytest.raises(ValueError, match=said):
        sd.tl.joint_embed(mdata, "totalvi", **knobs)


# ---------------------------------------------------------------------- scglue


class Glued:
    """In the place of scglue: the places of cells are their scores; what it was given and told is kept."""

    def __init__(self):
        self.log = SimpleNamespace(console_log_level=logging.INFO)
        self.config = SimpleNamespace(
            CPU_ONLY=False, GRAPH_SHUFFLE_NUM_WORKERS=1, DATALOADER_PIN_MEMORY=True, ALLOW_TRAINING_INTERRUPTION=True
        )
        self.models = SimpleNamespace(
            PairedSCGLUEModel=lambda *data, **size: SimpleNamespace(net=SimpleNamespace(device=None)),
            configure_dataset=lambda table, kind, **told: table.uns.update(told, kind=kind),
            fit_SCGLUE=self.fit,
        )

    def fit(self, tables, graph, model, *, skip_balance, init_kws, compile_kws, fit_kws):
        self.tables, self.graph, self.net = tables, graph, model(tables, sorted(graph), **init_kws).net
        self.how = {**init_kws, **compile_kws, **fit_kws}
        self.then, self.level = dict(vars(self.config)), self.log.console_log_level
        (Path(fit_kws["directory"]) / "checkpoint").touch()
        print("training")  # noqa: T201, as the package does
        n = init_kws["latent_dim"]
        return SimpleNamespace(encode_data=lambda role, table: table.obsm["scores"][:, :n])


@pytest.fixture
def of_scglue(monkeypatch) -> Glued:
    made = Glued()
    stand_in(monkeypatch, scglue=vars(made))
    return made


def test_glue_tells_by_their_names_which_cells_are_pairs(mdata, of_scglue):
    sd.tl.match_modality(mdata, "glue", n_latent=3, batch_key="donor")
    seen, n_pairs = of_scglue.tables, N - LONE
    for role, name in (("source", "rna"), ("target", "prot")):
        table = seen[role]
        np.testing.assert_array_equal(table.X.toarray(), mdata[name].X.toarray())
        told = {"kind": "NB", "use_rep": "scores", "use_batch": "batch", "use_obs_names": True}
        assert table.uns == {**told, "use_highly_variable": False}
        assert table.obs["batch"].nunique() == 2
        np.testing.assert_allclose((table.obsm["scores"] ** 2).mean(axis=1), 1, rtol=1e-4)
    there = {role: dict(zip(table.obs_names, mdata[name].obs_names, strict=True))
             for (role, table), name in zip(seen.items(), ("rna", "prot"), strict=True)}  # fmt: skip
    shared = there["source"].keys() & there["target"].keys()
    assert 0.8 * n_pairs <= len(shared) < n_pairs  # some are held out
    assert all(there["source"][pair] == there["target"][pair] for pair in shared)


def test_places_by_glue_go_back_to_their_cells(mdata, of_scglue):
    sd.tl.match_modality(mdata, "glue", n_latent=3)
    z = mdata.obsm["X_glue"]
    for role, name in (("source", "rna"), ("target", "prot")):
        places = of_scglue.tables[role].obsm["scores"][:, :3]
        places = places / np.linalg.norm(places, axis=1, keepdims=True)
        own = has(mdata, name) & (~has(mdata, "rna") | (role == "source"))
        at = mdata[name].obs_names.get_indexer(mdata.obs_names[own])
        np.testing.assert_allclose(z[own], places[at], rtol=1e-5)


def test_settings_of_scglue_are_those_of_the_user_after_the_call(mdata, of_scglue, capsys):
    before = dict(vars(of_scglue.config))
    sd.tl.match_modality(mdata, "glue", n_latent=3, device="cpu", random_state=4, lr=0.1, progress=False)
    assert of_scglue.then == {**dict.fromkeys(before, False), "CPU_ONLY": True, "GRAPH_SHUFFLE_NUM_WORKERS": 0}
    assert (of_scglue.level, of_scglue.log.console_log_level) == (logging.CRITICAL, logging.INFO)
    assert vars(of_scglue.config) == before
    assert str(of_scglue.net.device) == "cpu"
    assert not Path(of_scglue.how.pop("directory")).exists()
    assert of_scglue.how == {
        "latent_dim": 3, "random_seed": 4, "lr": 0.1, "data_batch_size": 128, "max_epochs": 100,
        "lam_joint_cross": 1.0, "lam_real_cross": 1.0, "lam_cos": 1.0,
    }  # fmt: skip
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("knobs", "said"), [({"lr": 0.0}, "lr"), ({"epochs": 0}, "epochs"), ({"device": "abacus"}, "device")]
)
def test_numbers_out_of_range_are_refused_by_glue(mdata, of_scglue, knobs, said):
    with pytest.raises(ValueError, match=said):
        sd.tl.match_modality(mdata, "glue", **knobs)


def test_features_are_linked_with_those_that_correlate_most_of_either_sign():
    rng = np.random.default_rng(0)
    x, noise = rng.random((200, 3)), rng.random((200, 2))
    y = np.column_stack([2 - x[:, 1] + 0.1 * noise[:, 0], x[:, 2] + noise[:, 1], np.ones(200)])
    graph = guidance(csr_matrix(x), csr_matrix(y), 1)
    r = np.corrcoef(x.T, y[:, :2].T)[:3, 3:]
    expected = {(f"source{i}", f"target{j}") for j, i in enumerate(abs(r).argmax(axis=0))}
    expected |= {(f"source{i}", f"target{j}") for i, j in enumerate(abs(r).argmax(axis=1))}
    links = {tuple(sorted(edge[:2])): edge[2] for edge in graph.edges(data=True)}
    assert {pair for pair in links if pair[0] != pair[1]} == expected  # the constant feature has none
    for role in ("source", "target"):
        assert all(links[f"{role}{i}", f"{role}{i}"] == {"weight": 1.0, "sign": 1} for i in range(3))
    for (one, other), told in ((pair, links[pair]) for pair in expected):
        value = r[int(one[-1]), int(other[-1])]
        assert told["weight"] * told["sign"] == pytest.approx(value, abs=1e-5)


# ---------------------------------------------------------------------- manners


def test_what_is_set_for_now_is_put_back_after_an_error():
    holder = SimpleNamespace(one=1, other=2)
    with pytest.raises(KeyError), set_for_now(holder, one=5):
        assert (holder.one, holder.other) == (5, 2)
        raise KeyError
    assert holder.one == 1


def test_a_package_that_ends_the_process_on_ctrl_c_does_not_end_it():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), contained("it"):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_package_that_ends_the_process_is_an_error():
    with pytest.raises(ScdanceError, match="The package behind 'it' gave up"), contained("it"):
        sys.exit()


def test_a_process_that_is_told_to_end_ends():
    class Terminated(SystemExit):
        pass

    with pytest.raises(Terminated), contained("it"):
        raise Terminated


def test_too_few_cells_in_both_are_refused(of_scvi):
    mdata = sd.datasets.toy_pairs(n_obs=30, unpaired=0.8)
    said = "Only 6 cells are in both modalities, but TotalVI learns from those: at least 10"
    with pytest.raises(ValueError, match=said):
        sd.tl.joint_embed(mdata, "totalvi")


# ---------------------------------------------------------------------- integration


@pytest.fixture
def batches():
    made = sd.datasets.toy_clusters(n_obs=40, n_vars=30, k=2, n_de=5, batches=2)
    made.obs["known"] = made.obs["cell_type"].where(np.arange(40) % 2 == 0)
    return made


def test_scvi_sees_counts_and_batches(batches, of_scvi):
    sd.tl.integrate(batches, "scvi", batch_key="batch", n_latent=3, epochs=7, lr=2e-3, n_layers=1)
    seen, how = of_scvi.last.data, of_scvi.last.how
    np.testing.assert_array_equal(seen.X.toarray(), batches.X.toarray())
    np.testing.assert_array_equal(seen.obs["batch"].astype(str), batches.obs["batch"].astype(str))
    assert of_scvi.keys == {"batch_key": "batch"}
    assert (how["max_epochs"], how["plan_kwargs"], of_scvi.last.size["n_layers"]) == (7, {"lr": 2e-3}, 1)
    np.testing.assert_allclose(batches.obsm["X_scvi"][:, 0], np.ravel(batches.X.sum(axis=1)))


def test_scanvi_goes_on_from_scvi_and_is_told_the_known_types_only(batches, of_scvi):
    sd.tl.integrate(batches, "scanvi", batch_key="batch", labels_key="known", epochs=7, further_epochs=3)
    last = of_scvi.last
    told = last.data.obs["type"].astype(str).to_numpy()
    np.testing.assert_array_equal(told, batches.obs["known"].astype(object).fillna(last.unlabelled).astype(str))
    assert of_scvi.keys == {"batch_key": "batch", "labels_key": "type"}
    assert (last.start.how["max_epochs"], last.how["max_epochs"]) == (7, 3)


def test_scanorama_gets_the_batches_apart_and_its_places_go_back_in_order(batches, monkeypatch):
    def integrate(parts, genes, **how):
        assert how["seed"] == 0
        assert [len(names) for names in genes] == [parts[0].shape[1]] * 2
        return [np.asarray(part.sum(axis=1)) * [[1, 2]] for part in parts], genes[0]

    stand_in(monkeypatch, scanorama={"integrate": integrate})
    sd.tl.integrate(batches, "scanorama", batch_key="batch")
    x = batches.X.toarray()
    of_cell = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4).sum(axis=1)
    np.testing.assert_allclose(batches.obsm["X_scanorama"], of_cell[:, None] * [[1, 2]], rtol=1e-4)


# ---------------------------------------------------------------------- genes that a panel lacks


@pytest.fixture
def panel() -> tuple[Any, Any]:
    return sd.datasets.toy_panel(n_obs=50, n_vars=40, n_panel=30, random_state=0)


def test_tangram_gives_the_mean_of_the_cells_that_are_mapped_to_a_place(panel, monkeypatch):
    adata, ref = panel
    rng, seen = np.random.default_rng(0), {}

    def pp_adatas(there, here):
        assert there.var_names.equals(here.var_names)
        seen.update(there=there.copy(), here=here.copy())

    def map_cells_to_space(there, here, **how):
        logging.getLogger().info("as the package does")
        seen["how"] = how
        return SimpleNamespace(X=rng.random((there.n_obs, here.n_obs)))

    stand_in(monkeypatch, tangram={"pp_adatas": pp_adatas, "map_cells_to_space": map_cells_to_space})
    before = list(logging.getLogger().handlers)
    sd.tl.predict_genes(adata, ref, "tangram", epochs=7, device="cpu", random_state=3)
    assert logging.getLogger().handlers == before
    common = ref[:, ref.var_names.isin(adata.var_names)]
    np.testing.assert_array_equal(seen["here"].X.toarray(), adata[:, common.var_names].X.toarray())
    np.testing.assert_allclose(np.ravel(seen["there"].X.sum(axis=1)), np.median(common.X.sum(axis=1).A1), rtol=1e-5)
    how = {"num_epochs": 7, "random_state": 4, "mode": "cells", "device": "cpu", "density_prior": "uniform"}
    assert how.items() <= seen["how"].items()
    weights = np.random.default_rng(0).random((50, 50)).T
    values = np.log1p(1e4 * ref.X.toarray() / ref.X.sum(axis=1).A1[:, None])[:, ~ref.var_names.isin(adata.var_names)]
    found, names = adata.obsm["tangram"], adata.uns["scdance"]["predict_genes"]["tangram"]["features"]["names"]
    assert names.tolist() == ref.var_names[~ref.var_names.isin(adata.var_names)].tolist()
    np.testing.assert_allclose(found, weights / weights.sum(axis=1, keepdims=True) @ values, rtol=1e-4)


def test_gimvi_sees_counts_of_both_sides_and_its_shares_are_brought_to_the_unit_of_the_reference(panel, monkeypatch):
    adata, ref = panel

    class Gim(Model):
        def __init__(self, seq, spatial, *, n_latent):
            super().__init__(spatial, n_latent=n_latent)
            self.seq = seq

        def get_imputed_values(self, *, normalized):
            assert normalized
            return [np.ones(self.seq.shape), np.ones((self.data.n_obs, self.seq.n_vars))]

    stand_in(monkeypatch, scvi={"settings": Settings(), "external": SimpleNamespace(GIMVI=Gim)})
    sd.tl.predict_genes(adata, ref, "gimvi", epochs=7, n_latent=3, lr=2e-3, genes=list(adata.var_names[:4]))
    made, common = Gim.last, ref.var_names.isin(adata.var_names[4:])
    assert (made.how["max_epochs"], made.how["plan_kwargs"], made.n) == (7, {"lr": 2e-3}, 3)
    assert made.data.shape == (50, 26) and made.seq.shape == (50, 30)
    assert made.seq.var_names[:26].equals(made.data.var_names)
    np.testing.assert_array_equal(made.data.X.toarray(), adata[:, ref.var_names[common]].X.toarray())
    np.testing.assert_array_equal(made.seq.X.toarray()[:, 26:], ref[:, adata.var_names[:4]].X.toarray())
    share = ref.X.toarray()[:, common].sum() / ref.X.sum()  # one gene of 26 equal ones is that part of it
    np.testing.assert_allclose(adata.obsm["gimvi"], np.log1p(1e4 * share / 26), rtol=1e-5)
