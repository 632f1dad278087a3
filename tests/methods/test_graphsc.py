import anndata as ad
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scdance as sd
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.methods.cluster import graphsc
from scdance.methods.cluster.graphsc import GraphSC

KNOBS = {"n_top_genes": None, "n_components": 10, "hidden": 32, "n_latent": 16}


def cells_of(adata, **knobs):
    model = make("cluster", "graphsc", KNOBS | knobs)
    return model, read(adata, model)


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15)


@pytest.fixture(scope="module")
def fitted(adata):
    model, cells = cells_of(adata, n_clusters=4)
    result, _ = solve(model, cells=cells, progress=False)
    return model, cells, result


def test_propagation_equals_a_loop_over_edges(fitted):
    model, cells, _ = fitted
    x, features = cells.x.toarray(), model.gene_features_
    n_cells_of_gene = (x > 0).sum(axis=0)
    found = model._propagated(cells)
    for i in range(0, cells.n_obs, 37):
        genes = np.flatnonzero(x[i])
        in_degree = len(genes) + 1
        row = np.zeros(features.shape[1])
        for j in genes:
            weight = len(genes) * x[i, j] / x[i, genes].sum()
            row += weight * features[j] / np.sqrt(n_cells_of_gene[j] + 1)
        row += 1 * (x[i] @ features) / np.sqrt(1)  # the self-loop; no other edge leaves a cell
        np.testing.assert_allclose(found[i], row / np.sqrt(in_degree), rtol=1e-4, atol=1e-5)


def test_gene_features_are_the_components_of_standardised_genes(adata):
    _, cells = cells_of(adata)
    features, degrees = graphsc._describe_genes(
        cells,
        3,  # as many as differ from noise
        np.random.default_rng(0),
    )
    x = cells.x.toarray().astype(float)
    standardised = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = PCA(3, svd_solver="full").fit_transform(standardised.T)
    signs = np.sign((expected * features).sum(axis=0))
    np.testing.assert_allclose(features, expected * signs, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(degrees, (x > 0).sum(axis=0) + 1)


def test_constant_genes_and_cells_without_kept_genes_stay_finite(adata):
    adata = adata.copy()
    x = adata.X.toarray()
    x[:5] = 0
    x[:5, 0] = 9  # a gene of these cells alone, which is then dropped
    x[5:, 0] = 0
    adata = ad.AnnData(x.astype(np.float32))
    model, cells = cells_of(adata, n_top_genes=60, n_clusters=3)
    result, _ = solve(model, cells=cells, progress=False)
    assert np.isfinite(result["embedding"]).all()


def test_an_embedding_does_not_depend_on_the_other_cells(fitted):
    model, cells, result = fitted
    some = np.arange(0, cells.n_obs, 11)
    alone = model._embed(torch.from_numpy(model._propagated(cells)[some]))
    np.testing.assert_allclose(alone, result["embedding"][some], atol=1e-5)


def test_identity_loss_equals_the_published_cross_entropy():
    z = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    b, p = 7, 1 / (1 + np.exp(-z @ z.T.astype(float)))
    target, norm, pos_weight = np.eye(b), b / (2 * (b - 1)), b - 1
    expected = -norm * (pos_weight * target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    found = graphsc._tell_apart(torch.from_numpy(z), torch.from_numpy(z))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_edges_of_chance_leave_nothing_to_learn():
    """A net that says nothing is as good as it gets where cells and genes are linked by their degrees alone."""
    rng = np.random.default_rng(0)
    p = np.outer(rng.uniform(0.2, 0.8, 300), rng.uniform(0.1, 0.9, 60))
    adata = ad.AnnData((rng.random((300, 60)) < p).astype(np.float32))
    model, cells = cells_of(adata)
    solve(model, cells=cells, progress=False)
    h = torch.from_numpy(model._propagated(cells))
    step, rows = model._bipartite_step(cells, h), np.arange(300)
    for parameter in model.net_.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    assert step(rows).item() == pytest.approx(entropy, rel=0.05)


@pytest.mark.parametrize("objective", ["bipartite", "identity", "knn"])
def test_every_objective_is_trained_down_and_finds_the_planted_clusters(adata, objective):
    model, cells = cells_of(adata, n_clusters=4, objective=objective, epochs=20, lr=1e-3)
    result, _ = solve(model, cells=cells, progress=False)
    loss = model.history_["training_loss"]
    assert loss[-1] < loss[0]
    assert adjusted_rand_score(adata.obs["cell_type"], result["labels"]) > 0.9


def test_no_epochs_leave_the_net_as_it_was_made(adata):
    model, cells = cells_of(adata, n_clusters=4, epochs=0)
    solve(model, cells=cells, progress=False)
    assert model.epochs_ == 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for made, kept in zip(model.net().parameters(), model.net_.parameters(), strict=True):
            torch.testing.assert_close(made, kept)


def test_leiden_labels_stay_and_new_cells_follow_their_nearest_neighbour(adata):
    model, cells = cells_of(adata, resolution=0.5)
    result, _ = solve(model, cells=cells, progress=False)
    assert adjusted_rand_score(adata.obs["cell_type"], result["labels"]) > 0.9
    np.testing.assert_array_equal(result["labels"], model.prototype_labels_)
    some = model.predict(cells=read(adata[50:90].copy(), model))
    np.testing.assert_array_equal(some["labels"], result["labels"][50:90])
    near = cdist(some["embedding"] + 0.01, result["embedding"]).argmin(axis=1)
    np.testing.assert_array_equal(model._assign(some["embedding"] + np.float32(0.01)), result["labels"][near])
    assert model.notes_["n_neighbors"] == 30  # a tenth of the cells


def test_without_a_number_the_clusters_are_those_of_the_way_that_is_asked_for(adata):
    from scdance.graph import choose_k

    for how in ("stability", "scgnn"):
        model, cells = cells_of(adata, k_method=how, resolution=0.5)
        result, _ = solve(model, cells=cells, progress=False)
        choice = choose_k(result["embedding"], how=how, resolution=0.5)
        np.testing.assert_array_equal(result["labels"], choice.labels)
        assert model.notes_["k_selection"]["n_clusters"].tolist() == choice.table["n_clusters"].tolist()


@pytest.mark.parametrize("k", [4, 8, 16])
def test_the_number_of_clusters_is_near_the_planted_one(k):
    adata = sd.datasets.toy_clusters(n_obs=60 * k, n_vars=300, k=k, n_de=30, lfc=2)
    model, cells = cells_of(adata, n_components=30, n_latent=50)
    result, _ = solve(model, cells=cells, progress=False)
    assert abs(result["labels"].max() + 1 - k) <= max(1, k // 4)


def test_a_single_cluster_is_sure_of_every_cell():
    z = np.random.default_rng(0).normal(size=(9, 3))
    score = graphsc._silhouette(z, np.zeros(9, dtype=np.int32), z.mean(axis=0, keepdims=True))
    np.testing.assert_array_equal(score, 1)


def test_score_is_the_mapped_silhouette_of_the_centres(fitted):
    model, _, result = fitted
    distances = np.sort(cdist(result["embedding"], model.centers_), axis=1)
    a, b = distances[:, 0], distances[:, 1]
    np.testing.assert_allclose(result["score"], (1 + (b - a) / b) / 2, rtol=1e-4)
    assert result["score"].min() >= 0.5


def test_backed_data_give_the_same_clusters(adata, tmp_path):
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    results = []
    for each in (adata, backed):
        model, cells = cells_of(each, n_clusters=4, n_top_genes=60)
        results.append(solve(model, cells=cells, progress=False)[0])
    backed.file.close()
    np.testing.assert_array_equal(results[0]["labels"], results[1]["labels"])
    np.testing.assert_allclose(results[0]["embedding"], results[1]["embedding"], atol=1e-5)


def test_presets_are_the_objective_of_the_paper():
    assert make("cluster", "graphsc", {}, preset="paper").objective == "identity"
    assert make("cluster", "graphsc", {}, preset="10x_pbmc").dropout == 0.5
    assert make("cluster", "graphsc", {}, preset="paper").training.lr == 1e-5
    assert GraphSC().objective == "bipartite"


@pytest.mark.real
@pytest.mark.timeout(600)
def test_worm_neurons_reach_the_bars_with_their_own_number_of_clusters():
    adata = ad.read_h5ad(sd.settings.data_dir / "clustering" / "worm_neuron.h5ad")
    scores = []
    for seed in range(5):
        sd.tl.cluster(adata, "graphsc", random_state=seed, progress=False)
        found = adata.obs["graphsc"]
        scores.append([f(adata.obs["cell_type"], found) for f in (adjusted_rand_score, normalized_mutual_info_score)])
    ari, nmi = np.mean(scores, axis=0)
    assert ari >= 0.45
    assert nmi >= 0.72
