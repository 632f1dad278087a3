"""What holds for every clustering method: the traps that the reference falls into, and the limits of the knobs."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans

import scdance as sd
from scdance._checks import InputError
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.nn import CountHead

METHODS = registry.names("cluster")
SMALL = {
    "encoder": (16,),
    "latent": (4,),
    "hidden": 16,
    "n_latent": 4,
    "decoder": (8,),
    "pretrain_epochs": 4,
    "epochs": 4,
    "tol": 0.0,
}
# what weighs the clustering in the second stage, and the parameters that precede the latent space
CENTRED = {
    "scdeepcluster": (("gamma",), "encoder."),
    "scdcc": (("gamma",), "encoder."),
    "sctag": (("cluster_weight",), "conv"),
    "scdsc": (("assignment_weight", "graph_weight"), "encoder."),
}


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=90, n_vars=40, k=3, n_de=10, lfc=2.0)


def small(method, **typed):
    """Knobs that make a method quick on toy data, of those that it has."""
    there = knobs(registry.get("cluster", method))
    return {name: value for name, value in ({"n_clusters": 3} | SMALL).items() if name in there} | typed


def fitted(adata, method, **typed):
    model = make("cluster", method, small(method, **typed))
    cells = read(adata, model)
    return model, solve(model, cells=cells, progress=False)[0], cells


# ------------------------------------------------------------------ labels


def written(adata, method):
    sd.tl.cluster(adata, method=method, key_added="found", progress=False, **small(method))
    parts = {name: np.asarray(adata.obsm[name]) for name in ("X_found", "found_proba") if name in adata.obsm}
    return parts | {"labels": adata.obs["found"].to_numpy(), "score": np.asarray(adata.obs.get("found_score", []))}


@pytest.mark.parametrize("method", METHODS)
def test_labels_permuted_or_deleted_leave_every_bit_of_the_result(adata, method):
    permuted, without = adata.copy(), adata.copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    permuted.obs["cell_type"] = adata.obs["cell_type"].to_numpy()[order]
    del without.obs["cell_type"]
    found = written(adata.copy(), method)
    for other in (written(permuted, method), written(without, method)):
        assert other.keys() == found.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_labels_outside_the_given_part_have_no_say_in_scdcc(adata):
    given = np.arange(adata.n_obs) % 3 == 0
    results = []
    for seed in (None, 1):
        some = adata.copy()
        some.obs["known"] = some.obs["cell_type"].astype(str).where(given, "")
        if seed is not None:
            truth = some.obs["cell_type"].to_numpy().copy()
            truth[~given] = np.random.default_rng(seed).permutation(truth[~given])
            some.obs["cell_type"] = truth
        sd.tl.cluster(some, method="scdcc", labels_key="known", progress=False, **small("scdcc"))
        results.append(some.obsm["X_scdcc"])
    np.testing.assert_array_equal(*results)


def test_labels_and_pairs_are_read_by_scdcc_alone():
    learn = {name for name in METHODS if {"labels", "pairs"} & set(registry.get("cluster", name).uses)}
    assert learn == {"scdcc"}
    assert not any("label" in need for name in METHODS for need in registry.get("cluster", name).needs)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", CENTRED)
def test_the_clustering_loss_moves_the_encoder(adata, method):
    weights, before = CENTRED[method]
    free, *_ = fitted(adata, method, **dict.fromkeys(weights, 0.0))
    pulled, *_ = fitted(adata, method)
    other = dict(pulled.net_.named_parameters())
    ahead = [(name, value) for name, value in free.net_.named_parameters() if name.startswith(before)]
    still = [name for name, value in ahead if torch.equal(value, other[name])]
    assert ahead
    assert not still


@pytest.mark.parametrize("method", CENTRED)
def test_the_second_stage_moves_encoder_decoder_and_centers(adata, method):
    before, *_ = fitted(adata, method, epochs=0)
    after, *_ = fitted(adata, method)
    moved = dict(after.net_.named_parameters())
    assert not [name for name, value in before.net_.named_parameters() if torch.equal(value, moved[name])]


@pytest.mark.parametrize("method", CENTRED)
def test_the_first_centers_are_those_of_kmeans_in_the_space_that_predicts(adata, method):
    plain = {"shrink": 0.0} if "shrink" in knobs(registry.get("cluster", method)) else {}
    model, result, _ = fitted(adata, method, epochs=0, pretrain_epochs=20, **plain)
    expected = KMeans(3, n_init=20, random_state=0).fit(result["embedding"]).cluster_centers_
    found = model.net_.dec.centers.detach().numpy()
    for center in expected:
        assert np.linalg.norm(found - center, axis=1).min() < 1e-4


@pytest.mark.parametrize("method", CENTRED)
def test_what_is_predicted_are_the_raw_counts(adata, method, monkeypatch):
    seen, loss = [], CountHead.loss

    def watched(self, hidden, counts, size):
        seen.append(counts.numpy().copy())
        return loss(self, hidden, counts, size)

    monkeypatch.setattr(CountHead, "loss", watched)
    model, _, _ = fitted(adata, method)
    kept = adata.var_names.get_indexer(model.preps_["cells"].var_names)
    raw = {row.tobytes() for row in adata.X.toarray()[:, kept].astype(np.float32)}
    assert {row.tobytes() for row in np.vstack(seen)} == raw


@pytest.mark.parametrize("method", ["graphsc", "scdeepcluster", "scdcc"])
def test_prediction_draws_nothing(adata, method):
    model, result, cells = fitted(adata, method)
    model.net_.train()
    with torch.random.fork_rng():
        torch.manual_seed(99)
        state = torch.get_rng_state()
        again = model.predict(cells=cells)
        assert torch.equal(torch.get_rng_state(), state)
    for part, value in again.items():
        np.testing.assert_array_equal(value, result[part], err_msg=part)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_encoder_and_decoder_are_told_the_batch(part):
    adata = sd.datasets.toy_clusters(n_obs=90, n_vars=40, k=3, batches=2)
    model = make("cluster", "scdeepcluster", small("scdeepcluster"))
    solve(model, cells=read(adata, model, batch_key="batch"), progress=False)
    net = getattr(model.net_, part)
    x = torch.zeros(2, net.layers[0].in_features - 2)
    first, second = net(x, torch.tensor([0, 1]))
    assert not torch.allclose(first, second)


# ------------------------------------------------------------------ the number of clusters


@pytest.mark.parametrize("k_method", ["leiden", "stability", "scgnn"])
@pytest.mark.parametrize("method", ["kmeans", "gmm", "graphsc", "scdeepcluster", "scdcc", "sctag", "scdsc"])
def test_the_record_of_an_estimate_has_the_table_of_candidates(adata, method, k_method):
    some = adata.copy()
    sd.tl.cluster(some, method, progress=False, **small(method, n_clusters=None, k_method=k_method))
    table = some.uns["scdance"]["cluster"][method]["notes"]["k_selection"]
    assert {len(column) for column in table.values()} == {10 if k_method == "stability" else 1}
    assert len(some.obs[method].cat.categories) in table["n_clusters"]
    if k_method == "stability":
        assert sd.pl.cluster_stability(some, method).get_title() == method


@pytest.mark.parametrize("method", [name for name in METHODS if "n_clusters" in knobs(registry.get("cluster", name))])
def test_numbers_of_clusters_that_cannot_be_are_refused(adata, method):
    for wrong, said in ((0, "n_clusters=0"), (1, "n_clusters=1"), ("3", "int or None"), (46, "90 // 2 = 45")):
        some = adata.copy()
        with pytest.raises(InputError, match=said):
            sd.tl.cluster(some, method, **small(method, n_clusters=wrong))
        assert method not in some.obs


# ------------------------------------------------------------------ knobs


@pytest.mark.parametrize(
    ("method", "typed", "said"),
    [
        ("kmeans", {"n_init": 0}, r"KMeans: n_init=0, but it must be at least 1 \(default 20\)"),
        ("kmeans", {"n_components": 0}, "n_components=0, but it must be at least 1"),
        ("kmeans", {"n_top_genes": 0}, r"n_top_genes=0, but it must be at least 1 \(default 2000\)"),
        ("gmm", {"theta": 0.0}, "theta=0.0, but it must be above 0"),
        ("leiden", {"resolution": -1.0}, "resolution=-1.0, but it must be at least 0"),
        ("leiden", {"n_neighbors": 1}, "n_neighbors=1, but a cell, itself counted, needs at least 2"),
        ("leiden", {"n_iterations": 0}, "n_iterations=0 leaves each cell alone"),
        ("leiden", {"n_iterations": -2}, "n_iterations=-2, but it must be at least -1"),
        ("graphsc", {"dropout": 1.5}, "dropout=1.5, but it must be below 1"),
        ("graphsc", {"n_neighbors": 0}, "n_neighbors=0, but it must be at least 1"),
        ("graphsc", {"resolution": -1.0}, "resolution=-1.0, but it must be at least 0"),
        ("scdeepcluster", {"sigma": -1.0}, "sigma=-1.0, but it must be at least 0"),
        ("scdeepcluster", {"gamma": -1.0}, "gamma=-1.0, but it must be at least 0"),
        ("scdeepcluster", {"shrink": 2.0}, "shrink=2.0, but it must be at most 1"),
        ("scdeepcluster", {"n_latent": 0}, r"n_latent=0, but it must be at least 1 \(default 32\)"),
        ("scdeepcluster", {"encoder": (64, 0)}, r"encoder=\(64, 0\), but it must be at least 1"),
        ("scdeepcluster", {"tol": -0.1}, "tol=-0.1, but it must be at least 0"),
        ("scdcc", {"cl_weight": -1.0}, "cl_weight=-1.0, but it must be at least 0"),
        ("scdcc", {"n_pairs": 0}, "n_pairs=0, but it must be at least 1"),
        ("sctag", {"hops": -1}, "hops=-1, but it must be at least 0"),
        ("sctag", {"refresh": 0}, "refresh=0, but it must be at least 1"),
        ("sctag", {"radius": 0.0}, "radius=0.0, but it must be above 0"),
        ("sctag", {"dropout": 1.0}, "dropout=1.0, but it must be below 1"),
        ("scdsc", {"counts_weight": -1.0}, "counts_weight=-1.0, but it must be at least 0"),
        ("scdsc", {"n_neighbors": 0}, "n_neighbors=0, but it must be at least 1"),
        ("scdsc", {"latent": (8, 0)}, r"latent=\(8, 0\), but it must be at least 1"),
    ],
)
def test_knobs_out_of_range_are_refused_before_anything_is_read(adata, method, typed, said):
    some = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=said):
            sd.tl.cluster(some, method, **typed)
    pd.testing.assert_frame_equal(some.obs, adata.obs)
    assert not some.obsm and not some.uns


@pytest.mark.parametrize("method", METHODS)
def test_presets_lie_within_the_limits(method):
    for preset in registry.get("cluster", method).presets:
        make("cluster", method, {}, preset=preset)


def test_as_many_batches_as_cells_are_no_batches(adata):
    some = adata.copy()
    some.obs["depth"] = np.arange(adata.n_obs) * 1.5
    with pytest.raises(InputError, match=r"90 batches for 90 cells.*`batch_key=`"):
        sd.tl.cluster(some, "scdeepcluster", batch_key="depth", **small("scdeepcluster"))
    assert list(some.obs) == ["cell_type", "depth"] and not some.obsm


def test_a_single_new_cell_has_a_batch():
    adata = sd.datasets.toy_clusters(n_obs=90, n_vars=40, k=3, batches=2)
    model = sd.fit(
        "cluster", adata, method="scdeepcluster", batch_key="batch", progress=False, **small("scdeepcluster")
    )
    one = adata[:1].copy()
    sd.tl.cluster(one, model, batch_key="batch")
    assert one.obs["scdeepcluster"].notna().all()
