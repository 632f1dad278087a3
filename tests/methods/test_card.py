"""CARD: the algorithm by hand, its invariances, what smoothness adds, and wrong calls."""

from __future__ import annotations

import sys
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError
from scdance._core import registry
from scdance.pp import GaussKernel, _gauss_kernel

CARD = registry.get("deconvolve", "card")
card = sys.modules[CARD.__module__]
PHIS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


@pytest.fixture(scope="module")
def toys() -> tuple[ad.AnnData, ad.AnnData]:
    return sd.datasets.toy_mixtures(random_state=0)


@pytest.fixture
def spots(toys: Any) -> ad.AnnData:
    return toys[0].copy()


@pytest.fixture
def ref(toys: Any) -> ad.AnnData:
    return toys[1].copy()


def deconvolved(spots: ad.AnnData, ref: ad.AnnData, **arguments: Any) -> np.ndarray:
    """Shares of the types."""
    given = {"labels_key": "cell_type", "n_boot": 0, **arguments}
    return sd.tl.deconvolve(spots, ref, method="card", copy=True, **given).obsm["card"].to_numpy()


def notes(spots: ad.AnnData) -> dict[str, Any]:
    return spots.uns["scdance"]["deconvolve"]["card"]["notes"]


def by_hand(x: np.ndarray, b: np.ndarray, coords: np.ndarray, phi: float, eps: float = 1e-4) -> dict[str, Any]:
    """The algorithm of the paper on dense matrices, with one φ: x (spots, genes) counts, b (types, genes)."""
    x = x / x.sum(axis=1, keepdims=True)
    x, b = x * 0.1 / x.mean(), b * 0.1 / b.mean()
    (n, m), k = x.shape, len(b)
    coords = (coords - coords.min(axis=0)) / (coords - coords.min(axis=0)).max()
    w = np.exp(-((coords[:, None] - coords) ** 2).sum(axis=-1) / (2 * 0.1**2)) - np.eye(n)
    one = np.ones(n)
    degree = w @ one
    prior = np.diag(degree) - phi * w
    v, sigma2, old, history = np.full((n, k), 1 / k), 0.1, -np.inf, []

    def rough(v: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return np.array([(v[:, j] - mean[j]) @ prior @ (v[:, j] - mean[j]) for j in range(k)])

    t = rough(v, np.zeros(k))
    for step in range(1, 1001):
        mean = v.T @ prior @ one / (one @ prior @ one)
        lam = (t / 2 + n / 2) / (n / 2 + 2)
        before = v.copy()
        part1 = sigma2 * (degree[:, None] * v + phi * np.outer(degree, mean))
        part2 = sigma2 * (phi * w @ v + np.outer(degree, mean))
        for j in range(k):
            up = lam[j] * (x @ b.T)[:, j] + part2[:, j]
            v[:, j] *= up / (lam[j] * (v @ (b @ b.T))[:, j] + part1[:, j])
        sigma2 = ((x - v @ b) ** 2).sum() / (m * n)
        t = rough(v, mean)
        objective = (
            -m * n / 2 * np.log(sigma2) - m * n / 2 - n / 2 * np.log(lam).sum() - (t / lam).sum() / 2
            - 2 * np.log(lam).sum() - (n / 2 / lam).sum()
        )  # fmt: skip
        history.append(objective)
        stop = objective > old and 2 * abs(objective - old) < eps * abs(objective + old)
        if (stop or np.sqrt(((v - before) ** 2).mean()) < eps) and step > 5:
            break
        old = objective
    return {"v": v, "sigma2": sigma2, "lambda": lam, "b": mean, "steps": step, "history": history}


def test_the_preset_of_the_paper_is_its_algorithm_line_by_line(spots, ref):
    model = sd.fit("deconvolve", ref, method="card", preset="paper", labels_key="cell_type", n_boot=0)
    names = model.preps_["cells"].var_names[model.genes_]
    x = spots[:, names].X.toarray().astype(float)
    runs = [by_hand(x, model.profiles_.astype(float), spots.obsm["spatial"], phi) for phi in PHIS]
    best = len(PHIS) - 1 - int(np.argmax([run["history"][-1] for run in runs][::-1]))
    sd.tl.deconvolve(spots, method=model)
    shares = runs[best]["v"] / runs[best]["v"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(spots.obsm["card"], shares, atol=1e-6)
    told = notes(spots)
    assert told["phi"] == PHIS[best]
    assert told["n_iter"].tolist() == [run["steps"] for run in runs]
    np.testing.assert_allclose(told["score_of_phi"], [run["history"][-1] for run in runs], rtol=1e-9)
    for name in ("sigma2", "lambda", "b"):
        np.testing.assert_allclose(told[name], runs[best][name], rtol=1e-6)
    assert runs[best]["history"][-1] > runs[best]["history"][0]
    assert (spots.obsm["card_abundance"].to_numpy() > 0).all()  # the authors' steps end at no zero


def problem(n: int = 60, k: int = 4, g: int = 50, noise: float = 0.05, seed: int = 0) -> tuple[Any, Any, np.ndarray]:
    """Data of the regression, the prior and X itself, with profiles of the size that the priors rely on."""
    rng = np.random.default_rng(seed)
    b = rng.gamma(1.0, 0.1, size=(k, g))
    x = rng.dirichlet(np.ones(k), n) @ b + rng.normal(0, noise, (n, g))
    trust = rng.uniform(0.5, 1.5, n)
    data = card._Spots((x @ b.T)[:, None], b @ b.T, float((trust[:, None] * x**2).sum()), trust, g, 1.0, 1.0)
    near = card._Near.of(GaussKernel(rng.random((n, 2)), 0.1), n, None)
    return data, near, (x, b)


@pytest.mark.parametrize("update", ["coordinate", "multiplicative"])
def test_the_objective_is_that_of_whole_matrices_and_does_not_fall(update):
    data, near, (x, b) = problem()
    coords = np.random.default_rng(1).random((60, 2))
    near = card._Near.of(GaussKernel(coords, 0.1), 60, None)
    w = np.exp(-((coords[:, None] - coords) ** 2).sum(axis=-1) / (2 * 0.1**2)) - np.eye(60)
    (n, m), k, phi, history = x.shape, len(b), np.array([0.5, 0.99]), []
    for steps in range(1, 31):
        found = card._fit(data, near, phi, np.full((n, 2, k), 1 / k), update, 1e-300, steps)
        for i in range(2):
            v, lam, s2, prior = found.v[:, i], found.lam[i], found.sigma2[i], np.diag(w.sum(axis=1)) - phi[i] * w
            apart = v - found.b[i]
            rough = np.einsum("nk,nm,mk->k", apart, prior, apart)
            residual = (data.trust[:, None] * (x - v @ b) ** 2).sum()
            assert s2 == pytest.approx(residual / (m * n))
            expected = (
                -m * n / 2 * np.log(s2) - residual / (2 * s2) - n / 2 * np.log(lam).sum() - (rough / lam).sum() / 2
                - 2 * np.log(lam).sum() - (n / 2 / lam).sum()
            )  # fmt: skip
            assert found.objective[i] == pytest.approx(expected)
        history.append(found.objective)
    assert (np.diff(history, axis=0) >= -1e-6 * np.abs(history[0])).all()
    assert (history[-1] > history[0]).all()


@pytest.mark.parametrize("update", ["coordinate", "multiplicative"])
def test_the_end_is_where_the_gradient_is_zero_on_positive_amounts(update):
    data, near, _ = problem()
    phi, start = np.array([0.1, 0.99]), np.full((60, 2, 4), 0.25)
    found = card._fit(data, near, phi, start, update, 1e-13, 1500)
    lam, v = found.lam[None], found.v
    wv = near.product(v)
    prior = near.degree * v - phi[:, None] * wv - (1 - phi)[:, None] * near.degree * found.b
    slope = lam * data.trust[:, None, None] * (v @ data.h - data.c) + found.sigma2[:, None] * prior
    assert np.abs(slope[v > 1e-2]).max() < 1e-3 * np.abs(lam * data.c).max()
    assert slope[v < 1e-6].min(initial=0) > -1e-3  # at zero it may only rise


def test_the_residual_is_that_of_the_whole_matrix():
    data, _, (x, b) = problem()
    v = np.random.default_rng(1).random((60, 2, 4))
    expected = [(data.trust[:, None] * (x - v[:, i] @ b) ** 2).sum() for i in range(2)]
    np.testing.assert_allclose(card._residual(data, v), expected)


def test_without_places_it_is_non_negative_least_squares(spots, ref):
    shares = deconvolved(spots, ref, location_free=True, tol=1e-13)
    sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type", n_boot=0)
    np.testing.assert_allclose(shares, spots.obsm["nnls"], atol=1e-4)
    sd.tl.deconvolve(spots, ref, method="card", labels_key="cell_type", n_boot=0, location_free=True, tol=1e-13)
    np.testing.assert_allclose(spots.obsm["card_abundance"], spots.obsm["nnls_abundance"], rtol=0.02, atol=0.01)
    unweighted = deconvolved(spots, ref, location_free=True, weights="none", tol=1e-13)
    mean = ref.to_df().groupby(ref.obs["cell_type"].to_numpy()).mean().to_numpy()
    b = scipy.optimize.nnls(mean.T, spots.X[5].toarray().ravel())[0]
    np.testing.assert_allclose(unweighted[5], b / b.sum(), atol=1e-4)


@pytest.mark.parametrize("places", ["none", "all 0"])
def test_no_coordinates_are_the_same_as_leaving_them_out_and_told(spots, ref, places):
    nowhere = spots.copy()
    if places == "none":
        del nowhere.obsm["spatial"]
    else:
        nowhere.obsm["spatial"][:] = 0
    with pytest.warns(UserWarning, match="no coordinates, or all of them are 0.*`spatial_key=`.*`location_free=True`"):
        sd.tl.deconvolve(nowhere, ref, method="card", labels_key="cell_type", n_boot=0)
    np.testing.assert_array_equal(nowhere.obsm["card"], deconvolved(spots, ref, location_free=True))
    assert notes(nowhere)["location_free"]
    assert notes(nowhere)["phi"] == 0


def test_coordinates_that_are_left_out_cannot_be_wrong(spots, ref):
    without = deconvolved(spots, ref, location_free=True)
    spots.obsm["spatial"][3] = np.nan
    np.testing.assert_array_equal(deconvolved(spots, ref, location_free=True), without)
    with pytest.raises(InputError, match="missing or infinite for 1 of 97 spots"):
        deconvolved(spots, ref)


def test_a_key_of_coordinates_that_was_typed_has_to_be_there(spots, ref):
    with pytest.raises(MissingKeyError, match=r"no `obsm\['spatail'\]`; obsm has .*spatial"):
        deconvolved(spots, ref, spatial_key="spatail")


def test_many_counts_leave_the_prior_nothing_to_say(spots, ref):
    deep = spots.copy()
    deep.X = (deep.X * 0).tocsr()
    mean = ref.to_df().groupby(ref.obs["cell_type"].to_numpy()).mean().to_numpy()
    truth = np.random.default_rng(0).dirichlet(np.ones(3), spots.n_obs)
    deep.X = sp.csr_matrix(np.round(1e5 * truth @ mean))
    np.testing.assert_allclose(deconvolved(deep, ref, tol=1e-12), truth, atol=2e-3)


def test_coordinates_may_be_shifted_turned_by_right_angles_and_in_other_units(spots, ref):
    moved = spots.copy()
    moved.obsm["spatial"] = 7.5 * spots.obsm["spatial"][:, ::-1] * [1, -1] + [3, -20]
    np.testing.assert_allclose(deconvolved(moved, ref), deconvolved(spots, ref), atol=1e-5)


def test_the_order_of_spots_changes_no_share_and_no_deviation(spots, ref):
    order = np.random.default_rng(0).permutation(spots.n_obs)
    there = spots[order].copy()
    for each in (spots, there):
        sd.tl.deconvolve(each, ref, method="card", labels_key="cell_type", n_boot=4)
    for slot in ("card", "card_sd", "card_abundance"):
        np.testing.assert_allclose(spots.obsm[slot].to_numpy()[order], there.obsm[slot], atol=1e-5)


def test_the_grid_gives_the_shares_of_the_matrix(spots, ref, monkeypatch):
    rng = np.random.default_rng(0)
    spots.obsm["spatial"] = spots.obsm["spatial"] + rng.uniform(-20, 20, spots.obsm["spatial"].shape)
    dense = deconvolved(spots, ref)
    monkeypatch.setattr(_gauss_kernel, "DENSE", 10)
    np.testing.assert_allclose(deconvolved(spots, ref), dense, atol=1e-6)


@pytest.fixture(scope="module")
def shallow() -> tuple[ad.AnnData, ad.AnnData]:
    """A smooth tissue of 100 counts per spot, and cells that took no part in it."""
    cells = sd.datasets.toy_clusters(n_obs=600, n_vars=300, k=8, n_de=40)
    mixing, ref = sd.datasets.split_reference(cells)
    smooth = {"pattern": "gp", "lengthscale": 8.0}
    return sd.datasets.simulate_visium(mixing, "cell_type", n_rows=24, n_cols=24, depth=100, **smooth), ref


def rmse(shares: np.ndarray, spots: ad.AnnData) -> float:
    return float(np.sqrt(np.nanmean((shares - spots.obsm["true_prop"].to_numpy()) ** 2)))


def test_true_places_help_where_shares_are_smooth_and_exchanged_ones_help_less(shallow):
    spots, ref = shallow
    sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type", n_boot=0)
    one_by_one = rmse(spots.obsm["nnls"].to_numpy(), spots)
    exchanged = spots.copy()
    exchanged.obsm["spatial"] = np.random.default_rng(0).permutation(spots.obsm["spatial"])
    true = rmse(deconvolved(spots, ref), spots)
    assert true <= 0.92 * one_by_one
    assert true <= 0.97 * rmse(deconvolved(exchanged, ref), spots)
    assert rmse(deconvolved(spots, ref, location_free=True), spots) == pytest.approx(one_by_one, rel=0.02)


def test_slices_are_scaled_by_themselves_and_share_only_the_numbers(spots, ref):
    twice = ad.concat([spots, spots], label="slide", keys=["one", "two"], index_unique="-")
    twice.obsm["spatial"][spots.n_obs :] = 3 * twice.obsm["spatial"][spots.n_obs :] + 5000
    shares = deconvolved(twice, ref, library_key="slide")
    np.testing.assert_allclose(shares[: spots.n_obs], shares[spots.n_obs :], atol=1e-5)
    np.testing.assert_allclose(shares[: spots.n_obs], deconvolved(spots, ref), atol=0.02)
    assert np.abs(shares - deconvolved(twice, ref)).max() > 0.02  # as one slice they see each other


def test_the_marginal_criterion_adds_the_determinant_of_the_prior(spots, ref):
    sd.tl.deconvolve(spots, ref, method="card", labels_key="cell_type", n_boot=0)
    plain = notes(spots)["score_of_phi"]
    sd.tl.deconvolve(spots, ref, method="card", labels_key="cell_type", n_boot=0, phi_criterion="marginal")
    xy = spots.obsm["spatial"] - spots.obsm["spatial"].min(axis=0)
    w = np.exp(-((xy[:, None] - xy) ** 2).sum(axis=-1) / xy.max() ** 2 / (2 * 0.1**2)) - np.eye(len(xy))
    added = [3 / 2 * np.linalg.slogdet(np.diag(w.sum(axis=1)) - phi * w)[1] for phi in PHIS]
    np.testing.assert_allclose(notes(spots)["score_of_phi"] - plain, added, rtol=1e-6)


def test_a_kernel_of_many_spots_is_scaled_down():
    coords, v = np.random.default_rng(0).random((500, 2)), np.random.default_rng(1).random((500, 1, 2))
    kernel = GaussKernel(coords, 0.1)
    near = card._Near.of(kernel, 500, 5.0)
    assert near.degree.mean() == pytest.approx(5.0)
    np.testing.assert_allclose(near.product(v)[:, 0], kernel.matmul(v[:, 0]) * 5 / kernel.degree.mean())
    assert card._Near.of(kernel, 500, 1e4).degree.mean() == pytest.approx(kernel.degree.mean())


def test_the_standard_deviation_is_that_of_redrawn_counts(ref):
    mixing, ref = sd.datasets.split_reference(ref, random_state=0)
    spots = sd.datasets.simulate_visium(mixing, "cell_type", n_rows=10, n_cols=10, depth=100, random_state=0)
    sd.tl.deconvolve(spots, ref, method="card", labels_key="cell_type", n_boot=100)
    model = sd.fit("deconvolve", ref, method="card", labels_key="cell_type", n_boot=0)
    mean = spots.obsm["card_abundance"].to_numpy() @ model.profiles_
    names = pd.DataFrame(index=model.preps_["cells"].var_names[model.genes_])
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        again = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)), var=names)
        again.obsm["spatial"] = spots.obsm["spatial"]
        sd.tl.deconvolve(again, method=model)
        found.append(again.obsm["card"].to_numpy())
    refitted, told = np.std(found, axis=0, ddof=1), spots.obsm["card_sd"].to_numpy()
    assert np.sqrt((told**2).mean()) == pytest.approx(np.sqrt((refitted**2).mean()), rel=0.12)
    assert np.corrcoef(told.ravel(), refitted.ravel())[0, 1] > 0.6


def test_spots_without_counts_take_no_part(spots, ref):
    x = spots.X.tolil()
    x[4] = 0
    spots.X = x.tocsr()
    without = spots[np.arange(spots.n_obs) != 4].copy()
    with pytest.warns(UserWarning, match="1 of 97 cells have no counts"):
        shares = deconvolved(spots, ref)
    assert np.isnan(shares[4]).all()
    np.testing.assert_allclose(np.delete(shares, 4, axis=0), deconvolved(without, ref), atol=1e-6)


def test_a_spot_alone_is_deconvolved(spots, ref):
    assert deconvolved(spots[:1].copy(), ref).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"phi": (0.5, 1.0)}, "must be one or more values from 0 to below 1"),
        ({"phi": ()}, "must be one or more values"),
        ({"sigma": 0.0}, "sigma=0.0, but it must be above 0"),
        ({"strength": -1.0}, "strength=-1.0, but it must be above 0"),
        ({"n_boot": -1}, "n_boot must be a whole number of at least 0, but is -1"),
        ({"max_iter": 0}, "max_iter must be a whole number of at least 1, but is 0"),
        ({"phi_criterion": "likelihood"}, "'objective', 'marginal'"),
    ],
    ids=["one", "none", "sigma", "strength", "draws", "steps", "criterion"],
)
def test_wrong_numbers_are_refused(spots, ref, arguments, says):
    with pytest.raises(InputError, match=says):
        deconvolved(spots, ref, **arguments)


def test_coordinates_that_are_all_equal_lay_nothing_out(spots, ref):
    spots.obsm["spatial"] = np.ones((spots.n_obs, 2))
    with pytest.raises(InputError, match="1 different places"):
        deconvolved(spots, ref)
