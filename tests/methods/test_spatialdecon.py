"""Deconvolution by regression of logarithms: the optimum, outliers, background and how sure the shares are."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError
from scdance.methods.deconvolve import spatialdecon

K, G = 4, 150
TYPES, GENES = [f"t{k}" for k in range(K)], [f"g{g}" for g in range(G)]


def regions(
    n: int = 60, noise: float = 0.3, background: float = 0.0, scale: float = 20, seed: int = 0
) -> tuple[ad.AnnData, pd.DataFrame, np.ndarray]:
    """Deep regions with log-normal noise, the table of profiles, and the true shares, about a third of them 0."""
    rng = np.random.default_rng(seed)
    profiles = np.exp(rng.normal(0, 1.2, (K, G))) * scale
    share = rng.dirichlet(np.ones(K), n) * (rng.random((n, K)) < 0.7) + 1e-9
    share = np.where(share < 1e-3, 0, share)
    share[share.sum(axis=1) == 0, 0] = 1
    share /= share.sum(axis=1, keepdims=True)
    mean = rng.uniform(0.5, 2, (n, 1)) * (share @ profiles) + background
    return table(mean * np.exp(rng.normal(0, noise, mean.shape))), pd.DataFrame(profiles, TYPES, GENES), share


def table(x: np.ndarray, genes: list[str] | None = None) -> ad.AnnData:
    """Regions with these counts; halves are no logarithms, so the largest is above any logarithm."""
    obs = pd.DataFrame(index=[f"r{i}" for i in range(len(x))])
    return ad.AnnData(sp.csr_matrix(x.astype(np.float32)), obs, pd.DataFrame(index=genes or GENES))


def solved(data: ad.AnnData, ref: pd.DataFrame, **knobs: Any) -> ad.AnnData:
    """The regions with the result under "r"; that GeoMx values have fractions is no news here."""
    method = knobs.pop("method", "spatialdecon")
    data = data.copy()
    with pytest.warns(UserWarning, match="have fractions"):
        sd.tl.deconvolve(data, ref, method=method, key_added="r", **knobs)
    return data


def error(data: ad.AnnData, share: np.ndarray) -> float:
    return float(np.sqrt(np.mean((data.obsm["r"].to_numpy() - share) ** 2)))


def optimum(y: np.ndarray, design: np.ndarray, background: float, w: np.ndarray) -> np.ndarray:
    """Amounts at the optimum of Σ w (log y − log(background + b·design))², by scipy."""

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        mean = background + b @ design
        off = np.log(y / mean)
        return (w * off**2).sum(), -2 * design @ (w * off / mean)

    start = np.full(len(design), y.mean() / design.mean() / len(design))
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-11}
    bounds = [(0, None)] * len(design)
    return scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


@pytest.mark.parametrize("loss", ["log", "log1p"])
def test_without_noise_the_shares_come_back(loss: str):
    data, ref, share = regions(noise=0)
    for background in (0.0, "free"):
        found = solved(data, ref, loss=loss, background=background, outliers=0.0)
        np.testing.assert_allclose(found.obsm["r"], share, atol=1e-4)
    background = 1e-3
    data, ref, share = regions(noise=0, background=background)
    np.testing.assert_allclose(solved(data, ref, loss=loss, background=background).obsm["r"], share, atol=1e-4)


def test_log_normal_noise_is_borne_better_than_by_least_squares():
    data, ref, share = regions()
    found, floor = solved(data, ref), solved(data, ref, method="nnls", n_boot=0)
    plain = solved(data, ref, method="nnls", n_boot=0, weights="none")
    assert error(found, share) < error(floor, share) < error(plain, share)
    assert error(solved(data, ref, preset="paper"), share) < 0.8 * error(floor, share)


def test_the_preset_of_the_paper_is_its_two_regressions():
    data, ref, _ = regions(n=12, noise=0.6, scale=3)
    x = data.X.toarray()
    x[:, ::9] = np.round(x[:, ::9] / 50) * 50  # outliers and counts of 0
    data = table(x)
    found = solved(data, ref, preset="paper").obsm["r_abundance"].to_numpy()
    left_out = 0
    for i in range(0, 12, 3):
        y = data.X[i].toarray().ravel().astype(float)
        raised = np.maximum(y, y[y > 0].min())
        b = optimum(raised, ref.to_numpy(), 0.1, np.ones(G))
        off = np.log2(np.maximum(y, 0.5)) - np.log2(np.maximum(b @ ref.to_numpy() + 0.1, 0.5))
        left_out += (np.abs(off) > 3).sum()
        b = optimum(raised, ref.to_numpy(), 0.1, 1.0 * (np.abs(off) <= 3))
        np.testing.assert_allclose(found[i], b, atol=1e-4)
    assert left_out > 0


def test_the_preset_of_dance_is_a_regression_of_log1p_with_a_free_background():
    data, ref, _ = regions(n=9)
    found = solved(data, ref, preset="dance").obsm["r_abundance"].to_numpy()
    design = np.vstack([ref.to_numpy(), np.ones(G)])
    for i in range(0, 9, 2):
        expected = optimum(data.X[i].toarray().ravel() + 1.0, design, 1.0, np.ones(G))
        np.testing.assert_allclose(found[i], expected[:K], atol=1e-4)


@pytest.mark.parametrize("kind", ["geomx", "counts"])
def test_weights_are_one_over_the_technical_deviation(kind: str):
    tables = {
        "geomx": ([0, 2, 2.5, 3, 3.5, 5, 5.5, 99], [1.5, 1.383, 1.191, 0.8, 0.48, 0.301, 0.263, 0.235]),
        "counts": (
            [1, 2, 5, 10, 15, 20, 30, 50, 100, 200, 500, 1e9],
            [1.33, 1.15, 0.61, 0.35, 0.27, 0.23, 0.18, 0.14, 0.1, 0.07, 0.045, 0.03],
        ),
    }
    data, ref, _ = regions(n=6, noise=0.5, scale=8)
    ends, deviations = tables[kind]
    found = solved(data, ref, loss="log", background=0.5, outliers=0.0, weights=kind).obsm["r_abundance"].to_numpy()
    for i in (0, 5):
        y = data.X[i].toarray().ravel().astype(float)
        at = np.log2(y) if kind == "geomx" else y
        w = np.array([1 / next(sd_ for end, sd_ in zip(ends, deviations, strict=True) if each < end) for each in at])
        assert len(set(w)) > 5
        np.testing.assert_allclose(found[i], optimum(y, ref.to_numpy(), 0.5, w), atol=1e-4)


def test_amounts_and_background_have_the_unit_of_the_counts():
    data, ref, _ = regions(background=2)
    one = solved(data, ref, loss="log", background=2.0)
    ten = table(10 * data.X.toarray())
    ten = solved(ten, ref, loss="log", background=20.0)
    np.testing.assert_allclose(ten.obsm["r_abundance"], 10 * one.obsm["r_abundance"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ten.obsm["r"], one.obsm["r"], atol=1e-5)
    np.testing.assert_allclose(ten.obsm["r_sd"], one.obsm["r_sd"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("preset", [None, "paper"])
def test_gross_errors_are_left_out(preset: str | None):
    data, ref, _ = regions()
    x = data.X.toarray()
    wrong = np.random.default_rng(5).random(x.shape) < 0.01
    spoilt = table(np.where(wrong, 100 * x, x))
    moved = {}
    for outliers in (3.0, 0.0):
        clean, after = (solved(each, ref, preset=preset, outliers=outliers).obsm["r"] for each in (data, spoilt))
        moved[outliers] = float(np.abs(clean - after).to_numpy().mean())
    assert moved[3.0] < 0.01
    assert moved[0.0] > 2 * moved[3.0]


def test_a_background_of_each_region_is_estimated():
    data, ref, share = regions(noise=0.1)
    added = np.random.default_rng(3).uniform(0, 60, (data.n_obs, 1))
    raised = table(data.X.toarray() + added)
    assert error(solved(raised, ref), share) < 0.5 * error(solved(raised, ref, background=0.0), share)


def with_probes(noise: float = 0.1) -> tuple[ad.AnnData, pd.DataFrame, np.ndarray]:
    """Regions with a background of their own in all genes and two negative probes that count it."""
    data, ref, share = regions(noise=noise)
    rng = np.random.default_rng(3)
    added = rng.uniform(0, 60, (data.n_obs, 1))
    probes = added * np.exp(rng.normal(0, 0.05, (data.n_obs, 2)))
    return table(np.hstack([data.X.toarray() + added, probes]), [*GENES, "Neg-1", "Neg-2"]), ref, share


def test_negative_probes_are_the_background_of_their_region_and_are_not_fitted():
    data, ref, share = with_probes()
    probes = {"background": "negative", "negative_probes": ("Neg-1", "Neg-2")}
    named = ref.assign(**{"Neg-1": 1e-6, "Neg-2": 1e-6})
    found = solved(data, named, loss="log", outliers=0.0, **probes)
    assert error(found, share) < 0.5 * error(solved(data, named, loss="log", background=0.1), share)
    assert found.uns["scdance"]["deconvolve"]["r"]["notes"]["n_genes"] == G
    for i in (0, 7):
        y = data.X[i].toarray().ravel().astype(float)
        expected = optimum(y[:G], ref.to_numpy(), y[G:].mean(), np.ones(G))
        np.testing.assert_allclose(found.obsm["r_abundance"].iloc[i], expected, atol=1e-3)


@pytest.mark.parametrize("size", ["keep", "unit"])
def test_the_background_of_profiles_is_taken_off_them(size: str):
    ref = regions(n=1)[1]
    probes = {"background": "negative", "negative_probes": ("Neg-1", "Neg-2"), "size": size}
    bare, raised = (ref + added for added in (0, 7))
    bare[["Neg-1", "Neg-2"]], raised[["Neg-1", "Neg-2"]] = 1e-9, [6.0, 8.0]
    one = sd.fit("deconvolve", bare, method="spatialdecon", **probes).profiles_
    other = sd.fit("deconvolve", raised, method="spatialdecon", **probes).profiles_
    one, other = (each / each.sum(axis=1, keepdims=True) for each in (one, other))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=5e-5)  # the faintest values are raised


def test_the_standard_deviation_is_that_of_repeated_noise():
    ref = regions(n=1)[1]
    mean = ref.to_numpy().mean(axis=0) * 3
    many = table(mean * np.exp(np.random.default_rng(0).normal(0, 0.1, (4000, G))))
    for cov in ("robust", "gn"):
        found = solved(many, ref, loss="log", background=0.0, outliers=0.0, cov=cov)
        np.testing.assert_allclose(found.obsm["r_sd"].mean(), found.obsm["r"].std(ddof=0), rtol=0.05)
    paper = solved(many, ref, preset="paper", background=0.0)
    ratio = paper.obsm["r_sd"].to_numpy().mean() / found.obsm["r_sd"].to_numpy().mean()
    assert ratio == pytest.approx(1 / np.sqrt(2 * 0.1**2), rel=0.05)  # the variance of residuals is missing


def test_regions_without_a_count_of_the_genes_stay_unknown_and_zeros_stay_finite():
    data, ref, _ = regions(n=5)
    x = np.hstack([data.X.toarray(), np.ones((5, 1))])
    x[1, :G], x[2, : G - 3] = 0, 0
    for knobs in ({}, {"preset": "paper"}, {"loss": "log", "background": 0.0}):
        found = solved(table(x, [*GENES, "other"]), ref, **knobs)
        assert found.obsm["r"].iloc[1].isna().all() and found.obsm["r_sd"].iloc[1].isna().all()
        rest = found[[0, 2, 3, 4]]
        assert np.isfinite(rest.obsm["r"]).all(axis=None) and np.isfinite(rest.obsm["r_sd"]).all(axis=None)


def test_blocks_of_regions_are_solved_as_one(monkeypatch: pytest.MonkeyPatch):
    data, ref, _ = regions(n=30)
    whole = solved(data, ref)
    monkeypatch.setattr(spatialdecon, "BLOCK", 7 * G)
    parts = solved(data, ref)
    for part in ("r", "r_abundance", "r_sd"):
        np.testing.assert_allclose(parts.obsm[part], whole.obsm[part], atol=1e-6)


def test_profiles_of_any_unit_say_the_same():
    data, ref, _ = regions()
    one, other = solved(data, ref), solved(data, ref * 1e-6)
    np.testing.assert_allclose(other.obsm["r"], one.obsm["r"], atol=1e-5)
    assert other.uns["scdance"]["deconvolve"]["r"]["notes"]["n_genes"] == G


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"background": "negative"}, "pass them as `negative_probes=`"),
        ({"background": -1.0}, "background must be 0 or more, but is -1.0"),
        ({"outliers": -3.0}, "outliers must be 0 or more"),
        ({"background": "negative", "negative_probes": ("NegProbe",)}, "None of the negative probes NegProbe"),
        ({"background": "none"}, "'free', 'negative'"),
        ({"loss": "log2"}, "'log1p', 'log'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*have fractions")
def test_wrong_knobs_are_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any], says: str
):
    data, ref, _ = regions(n=5)
    monkeypatch.setattr(spatialdecon.SpatialDecon, "fit", None)
    with pytest.raises(InputError, match=says):
        sd.tl.deconvolve(data, ref, method="spatialdecon", **knobs)
    assert not data.obsm and not data.uns


def test_abundances_come_with_standard_errors_and_p_values():
    rng = np.random.default_rng(0)
    ref = pd.DataFrame(rng.gamma(1, 50, (4, 200)), index=list("abcd"), columns=[f"g{i}" for i in range(200)])
    amounts = np.tile([1.0, 0.5, 0.0, 0.2], (60, 1))
    data = ad.AnnData(amounts @ ref.to_numpy() * rng.lognormal(0, 0.3, (60, 200)), var=pd.DataFrame(index=ref.columns))
    found = solved(data, ref)
    assert list(found.obsm["r_se"].columns) == list("abcd")
    p = found.obsm["r_p"]
    assert (p["a"] < 1e-6).all()
    assert (p["c"] > 0.05).mean() > 0.9
    assert p.to_numpy().min() >= 0
    assert p.to_numpy().max() <= 1
