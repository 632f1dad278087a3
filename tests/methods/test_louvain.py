"""Louvain communities: what is known of them, and that places have no say."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance.graph import louvain


def modularity(a: sp.csr_matrix, codes: np.ndarray, resolution: float = 1.0) -> float:
    """Share of the edges within communities beyond what degrees alone give."""
    a = a.toarray()
    same, degree = codes[:, None] == codes, a.sum(axis=1)
    return float(((a - resolution * np.outer(degree, degree) / a.sum()) * same).sum() / a.sum())


def matrix(graph: nx.Graph) -> sp.csr_matrix:
    return sp.csr_matrix(nx.to_scipy_sparse_array(graph, weight=None, dtype=np.float32))


def groups(codes: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(codes == each).tolist()) for each in np.unique(codes)}


@pytest.mark.parametrize("seed", range(5))
def test_the_karate_club_falls_into_known_modularity(seed: int):
    a = matrix(nx.karate_club_graph())
    codes = louvain(a, random_state=seed)
    assert modularity(a, codes) >= 0.41
    assert modularity(a, codes) == pytest.approx(nx.community.modularity(nx.from_scipy_sparse_array(a), groups(codes)))


def test_two_cliques_with_one_edge_between_are_two_communities():
    codes = louvain(matrix(nx.barbell_graph(8, 0)))
    assert groups(codes) == {frozenset(range(8)), frozenset(range(8, 16))}


def test_parts_that_nothing_joins_share_no_community():
    a = sp.block_diag([matrix(nx.complete_graph(n)) for n in (9, 5, 3)], format="csr")
    assert louvain(a).tolist() == [0] * 9 + [1] * 5 + [2] * 3


def test_the_order_of_the_spots_only_renames_the_communities():
    a = matrix(nx.planted_partition_graph(4, 25, 0.6, 0.02, seed=0))
    order = np.random.default_rng(0).permutation(100)
    codes = np.empty(100, dtype=int)
    codes[order] = louvain(sp.csr_matrix(a[order][:, order]))
    assert groups(codes) == groups(louvain(a)) == {frozenset(range(i, i + 25)) for i in (0, 25, 50, 75)}


@pytest.mark.parametrize("resolution", [0.3, 1.0, 3.0])
def test_the_partition_is_no_worse_than_everyone_alone_or_all_together(resolution: float):
    a = matrix(nx.gnm_random_graph(60, 200, seed=1))
    codes = louvain(a, resolution=resolution)
    for other in (np.arange(60), np.zeros(60, dtype=int)):
        assert modularity(a, codes, resolution) >= modularity(a, other, resolution)


def test_places_have_a_say_in_the_refined_domains_alone():
    adata = sd.datasets.toy_domains(n_obs=200)
    other = adata.copy()
    other.obsm["spatial"] = np.random.default_rng(0).permutation(adata.obsm["spatial"])
    for each in (adata, other):
        sd.tl.spatial_domain(each, "louvain", n_clusters=4)
    np.testing.assert_array_equal(other.obs["louvain"].astype(str), adata.obs["louvain"].astype(str))
    assert (other.obs["louvain_refined"].astype(str) != adata.obs["louvain_refined"].astype(str)).any()
