import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdance._checks import MissingPackageError
from scdance.graph import Sparse, bipartite, spmm, to_dgl, to_pyg


@pytest.fixture
def a():
    return sp.random(12, 7, density=0.4, format="csr", random_state=0, dtype=np.float32)


@pytest.fixture
def square():
    return sp.random(9, 9, density=0.3, format="csr", random_state=1, dtype=np.float32)


def test_spmm_and_its_gradient_equal_the_dense_product(a):
    dense = torch.from_numpy(a.toarray())
    one, two = (torch.arange(35.0).reshape(7, 5).requires_grad_() for _ in range(2))
    product = spmm(Sparse(a), one)
    torch.testing.assert_close(product, dense @ two)
    weights = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    (product * weights).sum().backward()
    (dense @ two * weights).sum().backward()
    torch.testing.assert_close(one.grad, two.grad)


def test_a_large_factor_is_multiplied_in_parts_with_the_same_result(a, monkeypatch):
    module = sys.modules["scdance.graph._torch"]
    x = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole = Sparse(a) @ x
    (by_whole,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr(module, "CACHED", 7 * 20)
    widths, times = [], torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, x: widths.append(x.shape[1]) or times(a, x))
    parts = Sparse(a) @ x
    assert widths == [17, 17, 16]
    # some processors round a last column in another order than those before it
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), x)[0], by_whole)


def test_spmm_takes_a_transposed_gradient(a):
    x = torch.ones(7, 5, requires_grad=True)
    (Sparse(a) @ x).t().sum(dim=0).sum().backward()
    np.testing.assert_allclose(x.grad[:, 0], a.sum(axis=0).A1, rtol=1e-6)


def test_the_transposed_matrix_multiplies_and_drops_like_one_built_of_it(a):
    x, dense = (
        torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(),
        torch.from_numpy(a.toarray()),
    )
    product = Sparse(a).T @ x
    torch.testing.assert_close(product, dense.T @ x)
    torch.testing.assert_close(torch.autograd.grad(product.sum(), x)[0], dense.sum(dim=1, keepdim=True).expand(-1, 3))
    dropped = Sparse(a).dropout(0.5)
    torch.testing.assert_close(dropped.T @ torch.eye(12), (dropped @ torch.eye(7)).T)


def test_to_moves_and_returns_the_same_matrix(a):
    s = Sparse(a)
    assert s.to("cpu") is s
    assert s.shape == (12, 7)


@pytest.mark.gpu
def test_spmm_on_the_gpu_equals_the_cpu(a):
    x = torch.randn(7, 5)
    torch.testing.assert_close((Sparse(a, "cuda") @ x.cuda()).cpu(), Sparse(a) @ x)


def test_messages_of_pyg_are_the_product(square):
    from torch_geometric.nn import SimpleConv

    x = torch.arange(18.0).reshape(9, 2)
    data = to_pyg(square, x)
    found = SimpleConv(aggr="sum")(data.x, data.edge_index, data.edge_weight)
    torch.testing.assert_close(found, Sparse(square) @ x)
    assert to_pyg(square).num_nodes == 9


def test_cells_and_genes_become_two_kinds_of_nodes(a):
    into_cells, _ = bipartite(a)
    data = to_pyg(into_cells, (None, np.eye(7)), nodes=("cell", "gene"))
    assert (data["cell"].num_nodes, data["gene"].num_nodes) == (12, 7)
    assert data["gene"].x.shape == (7, 7)
    there, back = data["gene", "to", "cell"], data["cell", "to", "gene"]
    dense = torch.zeros(12, 7)
    dense[there.edge_index[1], there.edge_index[0]] = there.edge_weight
    np.testing.assert_array_equal(dense, into_cells.toarray())
    assert torch.equal(back.edge_index, there.edge_index.flip(0))
    assert data.validate()


def test_dgl_that_cannot_be_imported_names_the_version_that_works(square, monkeypatch):
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(MissingPackageError, match=r"dgl==1\.1\.3 on Python 3\.11.*scdance\[dgl\]"):
        to_dgl(square)


def test_dgl_gets_source_target_and_weight(a, square, monkeypatch):
    graph = types.SimpleNamespace(edata={}, ndata={})
    edge_types = {}

    def plain(edges, num_nodes):
        graph.edges_given, graph.num_nodes = edges, num_nodes
        return graph

    def hetero(edges, num_nodes_dict):
        for kind in edges:
            edge_types[kind] = types.SimpleNamespace(data={})
        nodes = {name: types.SimpleNamespace(data={}) for name in num_nodes_dict}
        return types.SimpleNamespace(edges=edge_types, nodes=nodes, given=edges, sizes=num_nodes_dict)

    monkeypatch.setitem(sys.modules, "dgl", types.SimpleNamespace(graph=plain, heterograph=hetero))
    to_dgl(square, np.eye(9))
    source, target = graph.edges_given
    np.testing.assert_array_equal(square.toarray()[target, source], graph.edata["w"])
    assert graph.num_nodes == 9
    assert graph.ndata["x"].shape == (9, 9)

    two = to_dgl(a, (None, np.eye(7)), nodes=("cell", "gene"))
    assert two.sizes == {"cell": 12, "gene": 7}
    source, target = two.given["gene", "to", "cell"]
    np.testing.assert_array_equal(a.toarray()[target, source], edge_types["gene", "to", "cell"].data["w"])
    assert two.nodes["gene"].data["x"].shape == (7, 7)
