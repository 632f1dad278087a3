"""Deconvolution by topics that start at markers: the factorisation, the ranks, and what spots get."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats

import scdance as sd
from scdance._checks import InputError
from scdance.methods.deconvolve.spotlight import areas, factorise

N_GENES, N_TYPES = 60, 3
ALL = {"theta": 0.0, "max_iter": 1, "patience": 1}


@pytest.fixture(scope="module")
def toys() -> tuple[ad.AnnData, ad.AnnData]:
    return sd.datasets.toy_mixtures(random_state=0)


@pytest.fixture
def spots(toys: Any) -> ad.AnnData:
    return toys[0].copy()


@pytest.fixture
def ref(toys: Any) -> ad.AnnData:
    return toys[1].copy()


def start(k: int = 3, n: int = 40, g: int = 30, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Sparse values and a random place to begin, in float64."""
    rng = np.random.default_rng(seed)
    v = rng.poisson(rng.gamma(0.5, size=(n, k)) @ rng.gamma(0.5, size=(k, g)) * 3).astype(float)
    v[v.sum(axis=1) == 0, 0] = 1
    return sp.csr_matrix(v), rng.random((k, g)) + 0.1, rng.random((n, k)) + 0.1


def divergence(v: np.ndarray, u: np.ndarray) -> float:
    return float((scipy.special.xlogy(v, v / u) - v + u).sum())


def disjoint(n_each: int = 20, markers: int = 10) -> ad.AnnData:
    """Cells of three types that share no gene, all cells of a type alike but for their depth."""
    profiles = np.kron(np.eye(N_TYPES), np.arange(1, markers + 1))
    depth = np.tile(np.arange(1, n_each + 1), N_TYPES)
    x = np.repeat(profiles, n_each, axis=0) * depth[:, None]
    names = np.repeat([f"type{k}" for k in range(N_TYPES)], n_each)
    obs = pd.DataFrame({"cell_type": names}, index=[f"c{i}" for i in range(len(x))])
    return ad.AnnData(sp.csr_matrix(x), obs, pd.DataFrame(index=[f"g{j}" for j in range(x.shape[1])]))


def test_each_iteration_brings_the_fit_nearer():
    v, w, h = start()
    before = np.inf
    for _ in range(30):
        w, h, _ = factorise(v, w, h, **ALL)
        now = divergence(v.toarray(), h @ w)
        assert now <= before * (1 + 1e-12)
        before = now
    np.testing.assert_allclose(w.sum(axis=1), 1)


@pytest.mark.parametrize("theta", [0.0, 0.5])
def test_an_iteration_is_that_of_dense_matrices(theta: float):
    v, w, h = start()
    found_w, found_h, _ = factorise(v, w, h, theta=theta, max_iter=1, patience=1)
    x, s = v.toarray(), (1 - theta) * np.eye(3) + theta / 3
    sw = s @ w
    h = h * ((x / (h @ sw)) @ sw.T) / sw.sum(axis=1)
    hs = h @ s
    w = w * (hs.T @ (x / (hs @ w))) / hs.sum(axis=0)[:, None]
    np.testing.assert_allclose(found_w, w / w.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(found_h, h * w.sum(axis=1), rtol=1e-9)


def test_areas_are_those_of_the_rank_test():
    rng = np.random.default_rng(0)
    x, labels = rng.poisson(rng.gamma(0.5, 2, (3, 12))[np.arange(50) % 3]), np.arange(50) % 3
    found = areas(sp.csr_matrix(x.astype(np.float32)), labels, 3)
    for k in range(3):
        for j in range(12):
            u = scipy.stats.mannwhitneyu(x[labels == k, j], x[labels != k, j]).statistic
            assert found[k, j] == pytest.approx(u / ((labels == k).sum() * (labels != k).sum()))


@pytest.mark.parametrize("preset", [None, "paper"])
def test_with_markers_of_their_own_topics_are_types(preset: str | None):
    ref = disjoint()
    spots = ad.AnnData(ref.X.copy(), var=ref.var)
    model = sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type") if preset is None else None
    sd.tl.deconvolve(spots, ref, method="spotlight", labels_key="cell_type", preset=preset)
    codes = pd.Categorical(ref.obs["cell_type"]).codes
    assert (spots.obsm["spotlight"].to_numpy()[np.arange(len(codes)), codes] >= 0.95).all()
    if model is not None:
        q = model.of_types_
        assert (q.diagonal() > 100 * (q - np.diag(q.diagonal())).max(axis=1)).all()
        for k, profile in enumerate(model.topics_):
            assert profile[model.genes_ // 10 == k].sum() == pytest.approx(1, abs=1e-3)


def test_depth_does_not_matter(spots: ad.AnnData, ref: ad.AnnData):
    model = sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type")
    deeper = spots.copy()
    deeper.X = deeper.X * 10
    for each in (spots, deeper):
        sd.tl.deconvolve(each, method=model)
    np.testing.assert_allclose(deeper.obsm["spotlight"], spots.obsm["spotlight"], atol=1e-5)
    np.testing.assert_allclose(deeper.obsm["spotlight_abundance"], 10 * spots.obsm["spotlight_abundance"], rtol=1e-3)


def test_the_order_of_the_types_does_not_matter(spots: ad.AnnData, ref: ad.AnnData):
    given = {"method": "spotlight", "labels_key": "cell_type", "n_cells": None}
    sd.tl.deconvolve(spots, ref, key_added="one", **given)
    renamed = {"type1": "c", "type2": "a", "type3": "b"}
    ref.obs["cell_type"] = ref.obs["cell_type"].astype(str).map(renamed)
    sd.tl.deconvolve(spots, ref, key_added="other", **given)
    np.testing.assert_allclose(spots.obsm["other"][list(renamed.values())], spots.obsm["one"], atol=1e-4)


def test_small_shares_become_zero(spots: ad.AnnData, ref: ad.AnnData):
    for key, low in (("all", 0.0), ("large", 0.1)):
        sd.tl.deconvolve(spots, ref, method="spotlight", labels_key="cell_type", min_prop=low, key_added=key)
    every, large = (spots.obsm[key].to_numpy() for key in ("all", "large"))
    cut = np.where(every < 0.1, 0, every)
    assert (cut != every).any()
    np.testing.assert_allclose(large, cut / cut.sum(axis=1, keepdims=True), atol=1e-6)


def test_what_is_left_unexplained_is_a_share(spots: ad.AnnData, ref: ad.AnnData):
    model = sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type")
    rng = np.random.default_rng(0)
    spots.X = sp.csr_matrix(rng.poisson(rng.gamma(0.1, 5, spots.shape)).astype(np.float32))  # of no type
    told = []
    explain = model._explain

    def listen(cells: Any) -> Any:
        told.append(explain(cells))
        return told[-1]

    model._explain = listen
    sd.tl.deconvolve(spots, method=model)
    b, left, seen = told[-1]
    assert left.min() >= 0
    assert left.max() <= 1
    assert left[seen].max() > 0.01
    assert ((b.sum(axis=1) > 0) == seen).all()


def test_the_standard_deviation_is_that_of_redrawn_counts(ref: ad.AnnData):
    mixing, ref = sd.datasets.split_reference(ref, random_state=0)
    spots = sd.datasets.simulate_visium(mixing, "cell_type", n_rows=10, n_cols=10, depth=200, random_state=0)
    model = sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type", n_boot=200)
    told = sd.tl.deconvolve(spots, method=model, copy=True).obsm["spotlight_sd"].to_numpy()
    names = model.preps_["cells"].var_names
    seen = {}

    def listen(cells: Any) -> Any:
        seen["topics"] = type(model)._topics(model, cells)
        return seen["topics"]

    model._topics, model.n_boot = listen, 0
    sd.tl.deconvolve(spots, method=model)
    p, w, spread = seen["topics"]
    mean, rng, found = np.zeros((spots.n_obs, len(names))), np.random.default_rng(0), []
    mean[:, model.genes_] = p @ w * spread
    for _ in range(40):
        again = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)), var=pd.DataFrame(index=names))
        sd.tl.deconvolve(again, method=model)
        found.append(again.obsm["spotlight"].to_numpy())
    refitted = np.std(found, axis=0, ddof=1)
    assert np.sqrt((told**2).mean()) == pytest.approx(np.sqrt((refitted**2).mean()), rel=0.1)
    assert np.corrcoef(told.ravel(), refitted.ravel())[0, 1] > 0.8
    quick = sd.tl.deconvolve(spots, ref, "spotlight", labels_key="cell_type", n_boot=0, key_added="quick", copy=True)
    assert "quick_sd" not in quick.obsm
    np.testing.assert_array_equal(quick.obsm["quick"], spots.obsm["spotlight"])


def test_markers_can_be_given(spots: ad.AnnData, ref: ad.AnnData, tmp_path: Any):
    mean = ref.to_df().groupby(ref.obs["cell_type"].to_numpy()).mean()
    ratio = mean / mean.mean()
    markers = {name: dict.fromkeys(ratio.columns[ratio.loc[name] > 1.8], 1.0) for name in mean.index}
    model = sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type", markers=markers)
    assert model.notes_["n_markers"] == sum(map(len, markers.values()))
    model.save(tmp_path / "model")
    assert sd.load(tmp_path / "model").markers == markers
    sd.tl.deconvolve(spots, method=model)
    assert sd.metrics.score(spots, "deconvolve", key="spotlight", truth="true_prop")["rmse"].item() < 0.15
    spots.write_h5ad(tmp_path / "spots.h5ad")


def test_a_spot_of_other_genes_has_no_shares(spots: ad.AnnData, ref: ad.AnnData):
    model = sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type", n_top_genes=0)
    x = spots.X.tolil()
    kept = model.preps_["cells"].var_names[model.genes_]
    x[3, spots.var_names.get_indexer(kept)] = 0
    x[3, np.setdiff1d(np.arange(60), spots.var_names.get_indexer(kept))[0]] = 5
    spots.X = x.tocsr()
    sd.tl.deconvolve(spots, method=model)
    assert spots.obsm["spotlight"].iloc[3].isna().all()
    assert spots.obsm["spotlight"].drop(index=spots.obs_names[3]).notna().all(axis=None)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"markers": {"type1": {"gene1": 1}, "type9": {}}}, "markers has type9, which is no type"),
        ({"markers": {"type1": {"gene_1": 1}, "type2": {"gene_2": 1}}}, "No marker genes of .*type3"),
        ({"markers": {"type1": {"gene_1": -1}}}, "weights above 0"),
        ({"markers": {"type1": ["gene_1"]}}, "weights above 0"),
        ({"theta": 1.0}, "theta=1.0, but it must be at least 0"),
        ({"min_auc": 0.2}, "min_auc=0.2, but it must be an area"),
        ({"n_boot": -1}, "n_boot must be a whole number of at least 0"),
        ({"rank": 1}, "rank=1, but there must be at least 2 topics"),
    ],
)
def test_wrong_calls_say_what_to_do(spots: ad.AnnData, ref: ad.AnnData, knobs: dict[str, Any], says: str):
    before = set(spots.obsm)
    with pytest.raises(InputError, match=says):
        sd.tl.deconvolve(spots, ref, method="spotlight", labels_key="cell_type", **knobs)
    assert set(spots.obsm) == before


def test_scaling_each_side_apart_needs_the_spots(ref: ad.AnnData):
    with pytest.raises(InputError, match="learns from the reference and the cells together"):
        sd.fit("deconvolve", ref, method="spotlight", labels_key="cell_type", preset="paper")
