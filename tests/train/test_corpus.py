"""Groups of cells that are read together."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import scdance as sd
from scdance._core.cells import Cells
from scdance._core.read import read
from scdance._core.run import make
from scdance.train import Corpus, Reader, sentences


@pytest.fixture(scope="module")
def toy() -> ad.AnnData:
    return sd.datasets.toy_clusters(n_obs=700, n_vars=50, batches=3)


def cells_of(adata: ad.AnnData, **given) -> Cells:
    return read(adata, make("embed", "cellplm", {"n_top_genes": None}), **given)


def test_each_cell_is_in_one_group_of_its_own_sample(toy):
    cells = cells_of(toy, batch_key="batch")
    groups = sentences(cells, 60, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(700))
    assert max(map(len, groups)) <= 60
    assert all(len(np.unique(cells.batch[rows])) == 1 for rows in groups)
    again = sentences(cells, 60, np.random.default_rng(1))
    assert {tuple(rows) for rows in groups} != {tuple(rows) for rows in again}


def test_small_samples_are_read_together(toy):
    adata = toy.copy()
    adata.obs["donor"] = np.repeat(np.arange(70), 10).astype(str)
    assert len(sentences(cells_of(adata, batch_key="donor"), 700, np.random.default_rng(0))) == 1


def test_cells_of_a_tissue_are_divided_by_place(toy):
    coords = np.random.default_rng(0).uniform(0, 1, (700, 2))
    cells = cells_of(toy, coords=coords)
    groups = sentences(cells, 100, np.random.default_rng(0))
    spread = np.mean([coords[rows].std(axis=0).mean() for rows in groups])
    assert spread < 0.5 * coords.std(axis=0).mean()


def test_what_is_held_out_never_comes(toy):
    corpus = Corpus([cells_of(toy), cells_of(toy)], 50, np.random.default_rng(0), valid=0.2)
    held = {(i, row) for i, rows in corpus.held_out for row in rows}
    assert 0.1 < len(held) / 1400 < 0.3
    for _ in range(3):
        seen = [(i, row) for i, rows in corpus for row in rows]
        assert len(seen) == len(set(seen)) == 1400 - len(held)
        assert not held & set(seen)
    assert len(list(corpus)) == len(corpus)


def test_samples_of_several_data_sets_have_codes_of_their_own(toy):
    corpus = Corpus([cells_of(toy, batch_key="batch"), cells_of(toy)], 100, np.random.default_rng(0))
    assert corpus.covariates == [4, 2]
    for i, rows in corpus:
        sample, source = corpus.read((i, rows)).codes
        assert (source == i).all()
        assert (sample == 3).all() if i else (sample < 3).all()


def test_genes_that_a_data_set_lacks_are_left_out():
    model = make("embed", "cellplm", {"n_top_genes": None})
    toy = sd.datasets.toy_clusters(n_obs=20, n_vars=90)
    whole = read(toy, model)
    part = read(toy[:, 10:].copy(), model, prep=whole.prep)
    tokens = Reader(part, torch.device("cpu")).read(np.arange(5))
    assert tokens.genes.tolist() == list(range(10, 90))
    assert tokens.x.shape == tokens.counts.shape == (5, 80)


def test_shares_and_dispersion_are_those_of_simulated_counts():
    rng = np.random.default_rng(0)
    share, theta = rng.dirichlet(np.full(20, 5.0)), 2.0
    size = rng.uniform(500, 2000, 4000)
    mean = size[:, None] * share
    counts = rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32)
    cells = cells_of(ad.AnnData(counts))
    found, dispersion = Corpus([cells], 500, rng).gene_means()
    np.testing.assert_allclose(found, share, rtol=0.05)
    # totals of the simulated cells vary with their genes, so that a part of the variance is that of the total
    np.testing.assert_allclose(dispersion, theta, rtol=0.3)


def test_the_logarithm_of_counts_is_read_where_the_depth_is_left(toy):
    cells = cells_of(toy)
    plain = Reader(cells, torch.device("cpu"), normalized=False).read(np.arange(5))
    torch.testing.assert_close(plain.x, plain.counts.log1p())
