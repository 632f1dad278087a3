import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from scdance._checks import InputError
from scdance.datasets import _toy, toy_clusters


def test_a_seed_gives_the_same_counts():
    one, same, other = toy_clusters(), toy_clusters(random_state=0), toy_clusters(random_state=1)
    assert (one.X != same.X).nnz == 0
    assert (one.X != other.X).nnz > 0


def test_a_generator_is_not_advanced():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    toy_clusters(n_obs=20, n_vars=10, n_de=2, random_state=rng)
    assert rng.bit_generator.state == before


def test_counts_are_sparse_integers_of_the_wanted_depth():
    adata = toy_clusters(depth=800)
    assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.int32 and adata.X.has_canonical_format
    assert adata.X.sum(axis=1).mean() == pytest.approx(800, rel=0.05)


def test_the_counts_of_a_gene_have_the_variance_of_a_negative_binomial(monkeypatch):
    monkeypatch.setattr(_toy, "DEPTH_SD", 0.0)
    x = toy_clusters(4000, 50, k=1, n_de=0, depth=2000, theta=2).X.toarray()
    mean = x.mean(axis=0)
    np.testing.assert_allclose(np.median(x.var(axis=0) / (mean + mean**2 / 2)), 1, rtol=0.05)


def test_planted_genes_are_raised_by_what_was_planted():
    adata = toy_clusters(4000, 200, k=2, n_de=20, lfc=1.0, depth=5000)
    first = (adata.obs["cell_type"] == "type1").to_numpy()
    mean = np.stack([adata.X[rows].mean(axis=0).A1 for rows in (first, ~first)])
    found = np.log(mean[0] / mean[1])
    planted = adata.varm["lfc"][:, 0] - adata.varm["lfc"][:, 1]
    raised = found[planted == 1].mean() - found[planted == 0].mean()
    assert raised == pytest.approx(1.0, abs=0.1)
    assert (adata.varm["lfc"] != 0).sum(axis=0).tolist() == [20, 20]


def test_clusters_differ_in_size_and_none_is_empty():
    sizes = toy_clusters(n_obs=64, n_vars=20, k=16, n_de=3).obs["cell_type"].value_counts()
    assert len(sizes) == 16 and sizes.min() >= 1
    assert sizes["type1"] > sizes["type16"]


def test_batches_shift_genes():
    adata = toy_clusters(4000, 100, k=1, n_de=0, depth=5000, batches=2)
    one = (adata.obs["batch"] == "batch1").to_numpy()
    ratio = np.log(adata.X[one].mean(axis=0).A1 / adata.X[~one].mean(axis=0).A1)
    assert 0.2 < ratio.std() < 0.7  # two factors of sd 0.3 each


def test_dropout_moves_the_wanted_share_of_entries_into_a_layer():
    full, holed = toy_clusters(n_obs=2000), toy_clusters(n_obs=2000, dropout=0.4)
    lost = holed.layers["dropped"]
    assert holed.X.multiply(lost).nnz == 0
    assert (holed.X + lost).sum(axis=1).mean() == pytest.approx(full.X.sum(axis=1).mean(), rel=0.05)
    weak, strong = np.split(np.argsort((holed.X + lost).sum(axis=0).A1), 2)
    assert lost.nnz / (holed.X.nnz + lost.nnz) < 0.4  # the others were zero anyway
    share = [lost[:, genes].nnz / (holed.X + lost)[:, genes].nnz for genes in (weak, strong)]
    assert share[0] > share[1]
    assert "dropped" not in full.layers


def test_the_midpoint_of_dropout_gives_the_wanted_share():
    log_profile = np.log(np.random.default_rng(0).dirichlet(np.ones(300), 3))
    m0 = _toy._dropout_midpoint(log_profile, np.log(1000), 0.25)
    by_hand = 1 / (1 + np.exp(1.5 * (log_profile + np.log(1000) - m0)))
    assert by_hand.mean() == pytest.approx(0.25, abs=1e-6)


def test_memory_grows_with_the_counts_not_with_the_matrix(monkeypatch):
    monkeypatch.setattr(_toy, "ENTRIES_PER_BLOCK", 20_000)
    tracemalloc.start()
    adata = toy_clusters(4000, 500, depth=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < adata.shape[0] * adata.shape[1] * 4  # one dense float32 copy


@pytest.mark.parametrize(
    "wrong", [{"n_obs": 0}, {"k": 0}, {"n_de": 501}, {"theta": 0}, {"dropout": 1.0}, {"dropout": -0.1}]
)
def test_numbers_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        toy_clusters(**wrong)
