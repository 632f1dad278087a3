"""Consensus of partitions, against the matrix of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scdance._checks import InputError
from scdance.graph import _consensus, consensus, leiden


def noisy(n: int = 120, k: int = 4, m: int = 7, wrong: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A partition and several bad copies of it."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    copies = np.column_stack([np.where(rng.random(n) < wrong, rng.integers(k, size=n), truth) for _ in range(m)])
    return truth, np.column_stack([rng.permutation(k)[part] for part in copies.T])


def pairs(partitions: np.ndarray) -> np.ndarray:
    """Share of the partitions that put two cells together, (n, n)."""
    same = (partitions[:, None] == partitions[None]) & (partitions >= 0)[:, None] & (partitions >= 0)[None]
    return same.mean(axis=2)


def test_a_consensus_is_nearer_to_what_is_behind_the_partitions_than_any_of_them():
    truth, partitions = noisy()
    found = consensus(partitions)
    assert adjusted_rand_score(truth, found.labels) > max(adjusted_rand_score(truth, part) for part in partitions.T)


def test_it_is_the_leiden_partition_of_the_matrix_of_all_pairs():
    from scipy.sparse import csr_matrix

    _, partitions = noisy(n=60)
    share = pairs(partitions)
    share[share < 0.5] = 0
    assert adjusted_rand_score(leiden(csr_matrix(share)), consensus(partitions).labels) > 0.95


def test_stability_is_the_mean_share_within_the_cluster():
    _, partitions = noisy(n=80)
    partitions[5] = -1, *partitions[5, 1:]
    found, share = consensus(partitions), pairs(partitions)
    for i in (0, 5, 40):
        others = (found.labels == found.labels[i]) & (np.arange(80) != i)
        assert found.stability[i] == pytest.approx(share[i, others].mean(), abs=1e-5)


def test_boundary_cells_are_those_with_another_cluster_half_as_near():
    _, partitions = noisy(n=80, wrong=0.3)
    found, share = consensus(partitions), pairs(partitions)
    for i in range(80):
        others = (found.labels == found.labels[i]) & (np.arange(80) != i)
        near = max(share[i, found.labels == c].mean() for c in range(found.labels.max() + 1) if c != found.labels[i])
        within = share[i, others].mean() if others.any() else 1
        assert found.boundary[i] == (near >= within / 2)


def test_equal_partitions_are_the_consensus_and_wholly_stable():
    truth, _ = noisy()
    found = consensus(np.column_stack([truth, (truth + 1) % 4]))
    assert adjusted_rand_score(truth, found.labels) == 1
    np.testing.assert_allclose(found.stability, 1)
    assert not found.boundary.any()
    assert np.bincount(found.labels).tolist() == sorted(np.bincount(truth), reverse=True)


def test_the_order_of_the_cells_permutes_the_result():
    _, partitions = noisy()
    order = np.random.default_rng(1).permutation(len(partitions))
    one, other = consensus(partitions), consensus(partitions[order])
    assert adjusted_rand_score(one.labels[order], other.labels) == 1
    np.testing.assert_allclose(one.stability[order], other.stability, atol=1e-6)


def test_blocks_of_groups_change_nothing(monkeypatch):
    _, partitions = noisy()
    whole = consensus(partitions)
    monkeypatch.setattr(_consensus, "BLOCK", 7)
    np.testing.assert_array_equal(consensus(partitions).labels, whole.labels)


def test_what_cannot_agree_is_refused(monkeypatch):
    with pytest.raises(InputError, match="No cell has a cluster"):
        consensus(np.full((5, 2), -1))
    monkeypatch.setattr(_consensus, "MOST_GROUPS", 3)
    with pytest.raises(InputError, match=r"into 5 different combinations.*at most 3"):
        consensus(np.arange(5)[:, None].repeat(2, axis=1))
