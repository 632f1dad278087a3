"""What holds for every method of imputation, and what MAGIC, the neighbours and the gene means compute."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import nbinom

import scdance as sd
from scdance._checks import InputError, UnknownParameterError
from scdance._core import evaluate, registry
from scdance._core.knobs import knobs
from scdance.methods.impute.knn import KNN
from scdance.methods.impute.magic import MAGIC
from scdance.pp import canonical, thin

METHODS = registry.names("impute")
LOGGED = [name for name in METHODS if "counts" not in registry.get("impute", name).needs]
OUTPUTS = ("lognorm", "counts", "log1p", "log1p_nonzero", "log1p_250")
GOLDEN = tomllib.loads(Path(__file__).parents[1].joinpath("golden.toml").read_text())["impute"]
each_method = pytest.mark.parametrize("method", METHODS)
EPOCHS = 2


def quick(method: str) -> dict[str, Any]:
    """The knobs of the golden row, and few epochs of every stage: nothing here is about quality."""
    there = knobs(registry.get("impute", method))
    short = {name: EPOCHS for name in there if name == "epochs" or name.endswith("_epochs")}
    return {**GOLDEN.get(method, {}).get("knobs", {}), **short} | ({"steps": None} if "steps" in there else {})


def impute(adata: ad.AnnData, method: Any, **arguments: Any) -> Any:
    known = quick(method) if isinstance(method, str) else {}
    sd.tl.impute(adata, method, key_added="x", progress=False, device="cpu", **{**known, **arguments})
    return adata.layers["x"]


@cache
def _toy() -> ad.AnnData:
    adata = sd.datasets.toy_clusters(n_obs=70, n_vars=40, k=2, n_de=10, depth=300)
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 8, (70, 2))
    return adata


@pytest.fixture
def adata() -> ad.AnnData:
    return _toy().copy()


def dense(layer: Any) -> np.ndarray:
    return layer.toarray() if sp.issparse(layer) else np.asarray(layer)


def lognorm(counts: Any) -> np.ndarray:
    counts = dense(counts).astype(np.float64)
    return np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4).astype(np.float32)


# Who sees what


@each_method
@pytest.mark.parametrize("protocol", ["uniform", "thinning"])
def test_what_is_hidden_never_moves_a_result(adata, method, protocol):
    """The rest of the object may hold anything where counts were hidden, down to the last bit."""
    sd.tl.hold_out(adata, protocol, 0.2)
    other = adata.copy()
    hidden = (adata.X - adata.layers["counts_kept"]).toarray() > 0
    values = other.X.toarray()
    values[hidden] = np.random.default_rng(1).integers(1, 1000, hidden.sum())
    other.X = sp.csr_matrix(values)
    other.raw = other
    other.layers["more"] = other.X
    other.obs["cell_type"] = other.obs["cell_type"].to_numpy()[::-1]
    one, two = (dense(impute(each, method, layer="counts_kept")) for each in (adata, other))
    assert one.tobytes() == two.tobytes()
    assert abs(adata.layers["counts_kept"] - other.layers["counts_kept"]).sum() == 0


def watched(method: str, seen: list[Any]) -> Any:
    """The method, which notes all the numbers that reach its fit."""
    base = registry.get("impute", method)

    class Watched(base):  # type: ignore[misc, valid-type]
        task, name = "impute", method

        def fit(self, *, cells: Any) -> Any:
            assert cells.graph is cells.rep is cells.labels is None
            matrices = (cells.extra["whole"], cells.counts, cells.x)
            seen.append((*(matrix[:].toarray() for matrix in matrices), cells.depth))
            return super().fit(cells=cells)

    return Watched


@each_method
def test_with_evaluate_held_out_molecules_never_reach_a_trial(adata, method, monkeypatch):
    total = canonical(adata.X)
    kept = thin(total, evaluate.SHARE, np.random.default_rng([0, 2]))
    held_out = total - kept
    free = registry.get("impute", method).tries.items()
    tries = {name: values[:2] for name, values in free if name not in quick(method)}
    seen: list[Any] = []
    cls = watched(method, seen)
    cls.tries = tries
    impute(adata, cls, **quick(method), evaluate=True)
    *trials, final = seen
    assert len(trials) == np.prod([len(values) for values in tries.values()], dtype=int)
    assert (final[0] == total.toarray()).all()
    for trial in trials:
        assert (trial[0] + held_out.toarray() == total.toarray()).all()
        assert (trial[3] == kept.toarray().sum(axis=1)).all()

    monkeypatch.setattr(evaluate, "thin", lambda *_: kept)
    other = adata.copy()
    other.X = kept + 7 * held_out
    again: list[Any] = []
    cls = watched(method, again)
    cls.tries = tries
    impute(other, cls, **quick(method), evaluate=True)
    for one, two in zip(trials, again, strict=False):
        for first, second in zip(one, two, strict=True):
            assert first.tobytes() == second.tobytes()


@each_method
def test_evaluate_works_for_floors_and_nets_alike(adata, method):
    impute(adata, method, evaluate=True, **{k: v[0] for k, v in registry.get("impute", method).tries.items()})
    told = adata.uns["scdance"]["impute"]["x"]["notes"]["evaluation"]
    assert np.isfinite([told["poisson_loss"], told["poisson_gain"]]).all()
    found = adata.var["x_imputability"]
    assert found.dropna().between(-1, 1).all()
    if method != "gene_mean":  # the share of a gene is the same in all cells, so there is nothing to correlate
        assert found.notna().any()


# What is written


@each_method
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("policy", ["replace", "posterior", "restore", "max"])
def test_every_unit_and_policy_gives_finite_numbers_that_are_not_negative(adata, fitted, method, output, policy):
    values = dense(impute(adata, fitted(method), output=output, policy=policy, uncertainty=True))
    sd_of = dense(adata.layers["x_sd"])
    assert np.isfinite(values).all() and (values >= 0).all()
    assert np.isfinite(sd_of).all() and (sd_of >= 0).all()
    imputed = adata.var["x_imputed"].to_numpy()
    if output == "log1p_nonzero" and policy == "replace":
        assert (values[:, imputed] >= np.log(2) * (1 - 1e-6)).all()


@pytest.fixture(scope="module")
def fitted() -> Any:
    """A method by name, fitted once to the toy data."""
    return cache(lambda method: sd.fit("impute", _toy().copy(), method, progress=False, device="cpu", **quick(method)))


@pytest.fixture
def estimates(adata, fitted) -> Any:
    """Layers of a fitted method in a unit, by its policy; observed values in that unit; which genes were modelled."""

    def made(method: str, output: str, **how: Any) -> np.ndarray:
        return dense(impute(adata, fitted(method), output=output, **how))

    return made


@each_method
def test_units_follow_from_expected_counts_by_the_depth_of_the_cell(adata, estimates, method):
    counts, values, logs = (estimates(method, unit) for unit in ("counts", "lognorm", "log1p"))
    depth = np.asarray(adata.X.sum(axis=1))
    np.testing.assert_allclose(values, np.log1p(counts / depth * 1e4), rtol=1e-4, atol=1e-4)
    imputed = adata.var["x_imputed"].to_numpy()
    theta = adata.var["x_dispersion"].to_numpy()
    assert ((theta[imputed] > 0) & np.isfinite(theta[imputed])).all()
    assert (logs[:, imputed] <= np.log1p(counts[:, imputed]) * (1 + 1e-3) + 1e-6).all()


@pytest.mark.parametrize("method", ["gene_mean", "knn", "magic"])
def test_expected_logarithms_are_sums_over_the_negative_binomial(adata, estimates, method):
    counts, logs, told = (estimates(method, unit) for unit in ("counts", "log1p", "log1p_nonzero"))
    theta = adata.var["x_dispersion"].to_numpy()
    x = np.arange(2000)
    for i, j in ((0, 0), (3, 7), (40, 20), (69, 39)):
        law = nbinom(theta[j], theta[j] / (theta[j] + max(counts[i, j], 1e-8)))
        mean = law.pmf(x) @ np.log1p(x)
        assert logs[i, j] == pytest.approx(mean, abs=1e-3)
        assert told[i, j] == pytest.approx(mean / law.sf(0), abs=2e-3)


@each_method
@pytest.mark.parametrize("output", ["lognorm", "counts", "log1p"])
def test_restored_counts_are_bit_identical_and_the_larger_is_never_less(adata, estimates, method, output):
    plain, kept, larger = (estimates(method, output, policy=policy) for policy in ("replace", "restore", "max"))
    counts = adata.X.toarray().astype(np.float32)
    depth = counts.sum(axis=1, dtype=np.float64)
    scale = (1e4 / depth).astype(np.float32)[:, None] if output == "lognorm" else np.float32(1)
    own = counts if output == "counts" else np.log1p(counts * scale)
    assert (kept[counts > 0] == own[counts > 0]).all()
    assert (kept[counts == 0] == plain[counts == 0]).all()
    assert (larger == np.maximum(own, plain)).all()


@each_method
@pytest.mark.parametrize("output", ["lognorm", "counts"])
def test_the_posterior_lies_between_the_estimate_and_the_count(adata, estimates, method, output):
    plain, moved = (estimates(method, output, policy=policy) for policy in ("replace", "posterior"))
    own = adata.X.toarray() if output == "counts" else lognorm(adata.X)
    low, high = np.minimum(plain, own), np.maximum(plain, own)
    assert ((moved >= low * (1 - 1e-4) - 1e-5) & (moved <= high * (1 + 1e-4) + 1e-5)).all()
    imputed = adata.var["x_imputed"].to_numpy()
    differ = np.abs(plain - own)[:, imputed] > 1e-2
    assert (np.abs(moved - plain)[:, imputed][differ] > 0).mean() > 0.5


@pytest.mark.parametrize("method", ["gene_mean", "knn"])
def test_the_uncertainty_is_that_of_the_gamma_posterior(adata, estimates, method):
    mean, sigma = estimates(method, "counts"), None
    estimates(method, "counts", uncertainty=True)
    sigma, theta = adata.layers["x_sd"], adata.var["x_dispersion"].to_numpy()
    shape, rate = theta + adata.X.toarray(), theta / mean + 1
    np.testing.assert_allclose(sigma, np.sqrt(shape) / rate, rtol=1e-4)
    assert (sigma > 0).all()


@each_method
def test_of_some_genes_a_sparse_layer_is_written_and_the_others_are_as_observed(adata, estimates, method):
    whole = estimates(method, "lognorm")
    modelled = np.flatnonzero(adata.var["x_imputed"])[[1, 4, 7]]
    found = impute(adata, sd.fit("impute", adata, method, progress=False, device="cpu", **quick(method)),
                   genes=list(adata.var_names[modelled]))  # fmt: skip
    assert sp.isspmatrix_csr(found)
    assert (np.flatnonzero(adata.var["x_imputed"]) == modelled).all()
    others = np.setdiff1d(np.arange(40), modelled)
    np.testing.assert_allclose(dense(found)[:, others], lognorm(adata.X)[:, others], rtol=1e-5)
    assert (dense(found)[:, modelled] == whole[:, modelled]).all()


@each_method
def test_a_gene_that_is_not_there_is_refused_before_the_fit(adata, method, monkeypatch):
    monkeypatch.setattr(registry.get("impute", method), "fit", lambda *_, **__: pytest.fail("it was fitted"))
    for how in ({}, {"evaluate": True}):
        with pytest.raises(InputError, match="1 of the 1 genes asked for were not modelled: nobody"):
            impute(adata, method, genes=["nobody"], **how)


@each_method
def test_a_result_that_is_too_large_is_refused_before_the_fit(adata, method, monkeypatch):
    monkeypatch.setattr(sd.settings, "max_result_gb", 1e-6)
    monkeypatch.setattr(registry.get("impute", method), "fit", lambda *_, **__: pytest.fail("it was fitted"))
    for how in ({}, {"evaluate": True}):
        with pytest.raises(InputError, match=r"`genes=\[…\]`, or set a larger `scdance.settings.max_result_gb`"):
            impute(adata, method, **how)


@each_method
def test_a_fitted_method_gives_other_units_and_takes_no_knob_of_the_training(adata, fitted, method):
    model = fitted(method)
    before = model.output, model.policy
    one, two = (dense(impute(adata, model, output=output)) for output in ("lognorm", "counts"))
    depth = np.asarray(adata.X.sum(axis=1))
    np.testing.assert_allclose(one, np.log1p(two / depth * 1e4), rtol=1e-4, atol=1e-4)
    assert adata.uns["scdance"]["impute"]["x"]["params"]["output"] == "counts"
    assert (model.output, model.policy) == before
    others = [name for name in knobs(type(model)) if name not in (*model.asks, "random_state", "device")]
    with pytest.raises(UnknownParameterError, match=rf"fitted already, so {others[0]} cannot be set"):
        impute(adata, model, **{others[0]: getattr(model, others[0], 1)})
    with pytest.raises(InputError, match="output='linear'"):
        impute(adata, model, output="linear")


@each_method
def test_cells_without_counts_take_no_part_and_stay_zero(adata, method):
    counts = adata.X.toarray()
    counts[[0, 33]] = 0
    adata.X = sp.csr_matrix(counts)
    with pytest.warns(UserWarning, match="2 of 70 cells have no counts"):
        values = dense(impute(adata, method, uncertainty=True))
    assert (values[[0, 33]] == 0).all() and (dense(adata.layers["x_sd"])[[0, 33]] == 0).all()
    rest = adata[np.delete(np.arange(70), [0, 33])].copy()
    alone = dense(impute(rest, method))
    np.testing.assert_allclose(np.delete(values, [0, 33], axis=0), alone, rtol=1e-4, atol=1e-4)


@each_method
def test_two_cells_and_genes_without_counts_are_no_trouble(adata, method):
    counts = adata.X.toarray()
    counts[:, 5] = 0
    few = ad.AnnData(sp.csr_matrix(counts[:2]), var=adata.var, obsm={"spatial": adata.obsm["spatial"][:2]})
    own = {"n_clusters": None} if "n_clusters" in quick(method) else {}  # two cells are no four clusters
    for output in OUTPUTS:
        values = dense(impute(few, method, output=output, **own))
        assert np.isfinite(values).all()
        assert output == "log1p_nonzero" or (values[:, 5] < 0.1).all()


@each_method
def test_everything_survives_a_file(adata, method, tmp_path):
    impute(adata, method, uncertainty=True, evaluate=True, genes=list(adata.var_names[:15]),
           **{k: v[0] for k, v in registry.get("impute", method).tries.items()})  # fmt: skip
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    for name in ("x", "x_sd"):
        assert (dense(found.layers[name]) == dense(adata.layers[name])).all()
    assert (found.var["x_imputed"] == adata.var["x_imputed"]).all()
    assert set(found.uns["scdance"]["impute"]["x"]["slots"]) == set(adata.uns["scdance"]["impute"]["x"]["slots"])


@each_method
def test_a_layer_of_somebody_else_is_never_replaced(adata, method):
    adata.layers["x"] = adata.X.copy()
    with pytest.raises(InputError, match=r"layers\['x'\]` exists and was not written by scdance's 'impute'"):
        impute(adata, method)
    assert (adata.layers["x"] != adata.X).nnz == 0


# Log-normalised input


@pytest.mark.parametrize("method", LOGGED)
def test_log_normalised_values_are_averaged_as_they_are(adata, method):
    adata.X = lognorm(adata.X)
    values = impute(adata, method)
    assert values.shape == adata.shape
    assert (values >= -1e-6).all() and (values <= adata.X.max(axis=0) + 1e-4).all()
    assert adata.uns["scdance"]["impute"]["x"]["input"]["kind"] == "log-normalised"


@each_method
@pytest.mark.parametrize("asked", [{"output": "counts"}, {"policy": "posterior"}, {"uncertainty": True}])
def test_log_normalised_values_give_no_counts_and_that_is_said_before_the_fit(adata, method, asked, monkeypatch):
    adata.X = lognorm(adata.X)
    monkeypatch.setattr(registry.get("impute", method), "fit", lambda *_, **__: pytest.fail("it was fitted"))
    said = rf"{next(iter(asked))}=.* needs counts, but `X` holds log-normalised values.*`layer=`"
    with pytest.raises(InputError, match=said if method in LOGGED else "looks log-normalised.*needs raw counts"):
        impute(adata, method, **asked)


# The mean of each gene


def test_the_gene_mean_is_the_share_times_the_depth(adata):
    counts = adata.X.toarray()
    share = counts.sum(axis=0) / counts.sum()
    np.testing.assert_allclose(impute(adata, "gene_mean", output="counts"), np.outer(counts.sum(axis=1), share),
                               rtol=1e-5)  # fmt: skip
    flat = impute(adata, "gene_mean", output="counts", depth=False)
    np.testing.assert_allclose(flat, np.tile(counts.mean(axis=0), (70, 1)), rtol=1e-4)


# Neighbours


def test_neighbours_average_shares_and_a_little_of_all_cells(adata):
    model = KNN(n_neighbors=4, shrink=0.25, n_components=5)
    found = impute(adata, model, output="counts")
    counts = adata.X.toarray().astype(float)
    depth = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(counts / depth * np.median(depth))
    u, s, _ = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    z = (u * s)[:, :5]
    near = np.argsort(np.square(z[:, None] - z).sum(-1), axis=1, kind="stable")[:, :5]  # itself is the first
    expected = 0.75 * (counts / depth)[near].mean(axis=1) + 0.25 * counts.sum(axis=0) / counts.sum()
    np.testing.assert_allclose(found, expected * depth, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"n_neighbors": 0}, {"shrink": 1.5}, {"shrink": -0.1}, {"n_components": 0}])
def test_wrong_knobs_of_the_neighbours_are_refused_before_the_fit(adata, wrong, monkeypatch):
    monkeypatch.setattr(KNN, "fit", lambda *_, **__: pytest.fail("it was fitted"))
    with pytest.raises(InputError, match=f"{next(iter(wrong))}"):
        impute(adata, "knn", **wrong)


# MAGIC


@pytest.fixture
def cloud() -> np.ndarray:
    """Places of 100 cells, two of them close to each other."""
    z = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    z[1] = z[0] + 1e-2
    return z


def kernel(z: np.ndarray, knn: int, decay: float) -> np.ndarray:
    """The walk by its definition, dense."""
    distances = np.sqrt(np.square(z[:, None].astype(float) - z).sum(-1))
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")
    k = np.zeros_like(distances)
    for i in range(len(z)):
        near = order[i, : 3 * knn]
        k[i, near] = np.exp(-((distances[i, near] / distances[i, order[i, knn - 1]]) ** decay))
    k[k < 1e-4] = 0
    k = (k + k.T) / 2 + np.eye(len(z))
    return k / k.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("knn", "decay"), [(5, 1.0), (3, 2.0), (4, 10.0)])
def test_the_walk_is_that_of_the_kernel(cloud, knn, decay):
    walk = MAGIC(knn=knn, decay=decay).walk(cloud)
    np.testing.assert_allclose(walk.toarray(), kernel(cloud, knn, decay), atol=1e-5)
    np.testing.assert_allclose(np.asarray(walk.sum(axis=1)).ravel(), 1, atol=1e-6)
    assert walk.nnz < 100 * (6 * knn + 1)


@pytest.mark.parametrize("t", [1, 2, 3, 6])
@pytest.mark.parametrize("space", ["shares", "root", "log"])
def test_diffusion_is_a_power_of_the_walk(t, space):
    adata = sd.datasets.toy_clusters(n_obs=100, n_vars=70, k=2, n_de=10, depth=300)
    model = sd.fit("impute", adata, MAGIC(t=t, space=space))
    found = impute(adata, model, output="counts")
    counts = adata.X.toarray().astype(float)
    depth = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(counts / depth * np.median(depth))
    z = (logs - model.mean_) @ model.components_.T
    power = np.linalg.matrix_power(kernel(z.astype(np.float32), 5, 1.0), t)
    if space == "shares":
        expected = power @ (counts / depth) * depth
    else:
        forth, back = (np.sqrt, np.square) if space == "root" else (np.log1p, np.expm1)
        unit = depth / np.median(depth)
        expected = back(power @ forth(counts / unit)) * unit
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_no_step_leaves_the_counts_as_they_are(adata):
    np.testing.assert_allclose(impute(adata, "magic", t=0, output="counts"), adata.X.toarray(), rtol=1e-5)


@pytest.mark.parametrize("t", [1, 3, 8])
def test_a_constant_share_is_preserved_and_no_share_leaves_the_range_of_its_gene(adata, t):
    counts = adata.X.toarray()
    counts[:, 3] = 0
    counts[:, 3] = counts.sum(axis=1)  # half of each cell
    adata.X = sp.csr_matrix(counts)
    depth = counts.sum(axis=1, keepdims=True)
    shares = impute(adata, "magic", t=t, output="counts") / depth
    own = counts / depth
    np.testing.assert_allclose(shares[:, 3], 0.5, rtol=1e-5)
    assert (shares >= own.min(axis=0) - 1e-6).all() and (shares <= own.max(axis=0) + 1e-6).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("method", ["gene_mean", "knn", "magic"])
def test_floors_and_diffusion_do_not_know_the_order_of_cells(adata, method):
    assert registry.get("impute", method).order_free
    order = np.random.default_rng(0).permutation(70)
    other = adata[order].copy()
    np.testing.assert_allclose(impute(other, method), impute(adata, method)[order], atol=1e-5)


@pytest.mark.parametrize("method", ["gene_mean", "knn", "magic"])
def test_cells_that_are_all_alike_stay_as_they_are(method):
    row = np.random.default_rng(0).poisson(3, 30)
    adata = ad.AnnData(sp.csr_matrix(np.tile(row, (40, 1))).astype(np.float32))
    np.testing.assert_allclose(impute(adata, method, output="counts"), np.tile(row, (40, 1)), rtol=1e-4, atol=1e-5)


def test_a_cell_far_from_all_others_keeps_its_edges():
    z = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    z[7] = 1e4
    walk = MAGIC().walk(z)
    assert np.isfinite(walk.data).all()
    np.testing.assert_allclose(np.asarray(walk.sum(axis=1)).ravel(), 1, atol=1e-6)


def test_planted_groups_are_told_apart_and_noise_is_averaged_away(adata):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    means = rng.gamma(2, 2, (2, 50))[labels]
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(means)))
    for method in ("knn", "magic"):
        found = impute(adata, method, output="counts")
        before = np.square(adata.X.toarray() - means).mean()
        assert np.square(found - means).mean() < 0.3 * before


@pytest.mark.parametrize("wrong", [{"t": -1}, {"knn": 0}, {"decay": 0.0}, {"space": "linear"}, {"n_components": 0}])
def test_wrong_knobs_of_magic_are_refused_before_the_fit(adata, wrong, monkeypatch):
    monkeypatch.setattr(MAGIC, "fit", lambda *_, **__: pytest.fail("it was fitted"))
    with pytest.raises(InputError, match=f"{next(iter(wrong))}"):
        impute(adata, "magic", **wrong)


def test_presets_of_magic_run(adata):
    for preset in MAGIC.presets:
        values = impute(adata, "magic", preset=preset, output="counts")
        assert np.isfinite(values).all() and (values >= 0).all()
