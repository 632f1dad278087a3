from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from scdance.pp import draw_by_sparsity, sparsity, sparsity_bin


def with_shares(shares: list[float], n: int = 100) -> np.ndarray:
    """Counts of genes that so many of the cells lack."""
    return (np.arange(n)[:, None] >= np.round(np.array(shares) * n)).astype(int)


def test_a_gene_belongs_to_the_bin_that_begins_at_its_share_of_zeros():
    shares = [0.0, 0.74, 0.75, 0.89, 0.9, 0.94, 0.95, 1.0]
    counts = with_shares(shares)
    np.testing.assert_allclose(sparsity(counts), shares)
    np.testing.assert_allclose(sparsity(sp.csr_matrix(counts)), shares)
    assert sparsity_bin(sparsity(counts)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_genes_are_drawn_from_each_bin_up_to_a_number_and_a_share_of_it():
    counts = with_shares([0.1] * 40 + [0.8] * 10 + [0.92] * 3 + [0.99] * 1)
    drawn = draw_by_sparsity(counts, 6, np.random.default_rng(0), share=0.5)
    assert np.bincount(sparsity_bin(sparsity(counts[:, drawn])), minlength=4).tolist() == [6, 5, 1, 0]
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, draw_by_sparsity(counts, 6, np.random.default_rng(0), share=0.5))
    assert (drawn != draw_by_sparsity(counts, 6, np.random.default_rng(1), share=0.5)).any()
