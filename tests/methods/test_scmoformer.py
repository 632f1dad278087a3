"""scMoFormer beyond the common checks of every method."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import PREDICT_MODALITY
from scdance.graph import Sparse, laplacian_positions
from scdance.methods.predict_modality._facts import sparse
from scdance.methods.predict_modality._transformers import Known, Links, Net, Seen

TINY = {
    "hidden": 16,
    "n_components": 5,
    "heads": 2,
    "head_width": 4,
    "epochs": 2,
    "batch_size": 32,
    "patience": None,
    "lr": 5e-3,
}
N_GENES, N_PROTEINS = 9, 5


@pytest.fixture(scope="module")
def mdata():
    return sd.datasets.toy_pairs(n_obs=120, n_genes=40, n_proteins=8, unpaired=0.2, random_state=1)


@pytest.fixture
def x():
    x = sp.random(14, N_GENES, density=0.4, random_state=0, dtype=np.float32).toarray()
    x[13], x[:, 4] = 0, 0  # a cell and a gene without a value
    return sp.csr_matrix(x)


def read(mdata, knobs=TINY, **arguments):
    model = make("predict_modality", "scmoformer", knobs)
    return model, read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot", **arguments)["pair"]


def fitted(mdata, prior=None, **knobs):
    model, pair = read(mdata, {**TINY, **knobs}, prior=prior)
    return model, solve(model, pair=pair, progress=False)[0]["prediction"], pair


def seen(x, z=None):
    counts = [torch.from_numpy(x.getnnz(axis).astype(np.float32)[:, None]) for axis in (1, 0)]
    z = torch.randn(x.shape[0], 4, generator=torch.Generator().manual_seed(0)) if z is None else z
    return Seen(Sparse(x), *counts, z)


def known(is_linked):
    draw = torch.Generator().manual_seed(1)

    def links(n, m):
        return Sparse(sp.random(n, m, density=0.4, random_state=n + m, format="csr", dtype=np.float32))

    linked = Links(
        links(N_GENES, N_GENES),
        links(N_PROTEINS, N_PROTEINS),
        links(N_GENES, N_PROTEINS),
        links(N_PROTEINS, N_GENES),
        torch.randn(N_GENES, 3, generator=draw),
        torch.randn(N_PROTEINS, 3, generator=draw),
        flips=True,
    )
    return Known(torch.randn(N_GENES, 4, generator=draw), linked if is_linked else None)


def net(is_linked=False, n_layers=3, **knobs):
    parts = {"hidden": 16, "heads": 2, "head_width": 4, "n_random": 10, "dropout": 0.3, "attention_dropout": 0.1}
    sizes = {"n_vars": N_GENES, "n_scores": 4, "n_out": N_PROTEINS, "n_positions": 3}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Net(**{**parts, **sizes, **knobs}, n_layers=n_layers, is_linked=is_linked)
        torch.nn.init.normal_(made.head[1].weight)  # an answer of 0 would tell nothing
    return made.eval()


@pytest.mark.parametrize("is_linked", [False, True])
@torch.no_grad()
def test_recalled_answers_are_those_of_the_whole_graph(x, is_linked):
    made, whole, given = net(is_linked), seen(x), known(is_linked)
    places = [np.arange(5), np.arange(5, 14)]
    parts = [seen(x[at], whole.z[at]) for at in places]
    made.listen(lambda: iter(parts), given)
    expected = made(whole, given)
    torch.testing.assert_close(torch.cat([made.recall(part) for part in parts]), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(parts[0], given), expected[:5], atol=1e-2)  # a part alone is another graph


@torch.no_grad()
def test_the_order_of_the_cells_changes_nothing_but_the_order(x):
    made, whole, order = net(True), seen(x), np.random.default_rng(0).permutation(14)
    moved = made(seen(x[order], whole.z[order]), known(True))
    torch.testing.assert_close(moved, made(whole, known(True))[order], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_round_of_cells_is_that_of_explicit_sums(x):
    made, given, whole = net(n_layers=1), known(False), seen(x)
    cells = made.layers[0].cells
    h, genes = made.first(made.cell(whole.z)), made.first(made.gene(given.genes))
    message = cells.messages[0]
    terms = [cells.block(h), [], cells.own(h)]
    for i, row in enumerate(torch.from_numpy(x.toarray())):
        edges = torch.nonzero(row)[:, 0]
        heard = sum(row[j] * genes[j] for j in edges) / len(edges) if len(edges) else torch.zeros(16)
        terms[1].append(message.own(h[i]) + message.others.weight @ heard)
    terms[1] = torch.stack(terms[1])
    total = sum(cells.each(torch.nn.functional.selu(term)) for term in terms)
    new = cells.all(torch.nn.functional.selu(total))
    torch.testing.assert_close(made(whole, given), made.head(torch.cat([h, new], dim=1)), atol=1e-4, rtol=1e-4)


def test_the_terms_of_a_kind_share_one_norm_and_unheard_states_are_not_made():
    made = net(True)
    for layer in made.layers:
        for kind in filter(None, (layer.cells, layer.genes, layer.proteins)):
            own = [name for name, part in kind.named_children() if isinstance(part, torch.nn.LayerNorm)]
            assert own == ["each", "all"]
    assert [layer.genes is not None for layer in made.layers] == [True, True, False]
    assert [layer.proteins is not None for layer in made.layers] == [True, False, False]
    assert net(False).protein is None


def test_every_parameter_but_those_of_unexpressed_genes_moves_an_answer(x):
    made = net(True)
    made(seen(x), known(True)).square().sum().backward()
    still = [name for name, value in made.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert still == []


@torch.no_grad()
def test_signs_of_eigenvectors_are_drawn_in_training_alone(x):
    made, given = net(True, dropout=0.0, attention_dropout=0.0), known(True)
    assert torch.equal(made(seen(x), given), made(seen(x), given))
    made.train()
    torch.manual_seed(0)
    answers = [made(seen(x), given) for _ in range(4)]
    assert any(not torch.allclose(answers[0], other, atol=1e-3) for other in answers[1:])
    steady = Known(given.genes, given.links._replace(flips=False))
    assert torch.equal(made(seen(x), steady), made(seen(x), steady))


def test_genes_start_from_the_cells_that_express_them(mdata):
    model, _, pair = fitted(mdata, epochs=0)
    rows = pair.both[:, 0]
    values = pair.source.x[rows].toarray().astype(float)
    z = (values @ model.loadings_.T - model.scaling_["mean"]) / model.scaling_["sd"]
    means = values.T @ z / np.maximum((values > 0).sum(axis=0), 1)[:, None]
    np.testing.assert_allclose(model.genes(pair.source, rows), means / means.std(), rtol=1e-3, atol=1e-4)
    model.gene_init = "sum"
    np.testing.assert_allclose(model.genes(pair.source, rows), values.T @ z, rtol=1e-3, atol=1e-3)


def test_features_hear_the_mean_over_their_links_and_know_where_they_lie(mdata):
    genes, proteins = mdata["rna"].var_names, mdata["prot"].var_names
    sets = {"a": [*genes[:6], proteins[0]], "b": [*genes[4:9], *proteins[:3]]}
    model, pair = read(mdata, {**TINY, "n_positions": 2}, prior=sets)
    model.is_linked_ = True
    links, n = model.links(pair), pair.source.n_vars
    a = pair.prior.toarray()
    for part, block in {
        "genes": a[:n, :n],
        "proteins": a[n:, n:],
        "to_genes": a[:n, n:],
        "to_proteins": a[n:, :n],
    }.items():
        expected = block / np.maximum((block > 0).sum(axis=1), 1)[:, None]
        size = block.shape[1]
        np.testing.assert_allclose((getattr(links, part) @ torch.eye(size)).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        links.of_genes.numpy(), laplacian_positions(pair.prior[:n, :n], 2) * np.sqrt(n), atol=1e-5
    )


@pytest.mark.parametrize("positions", ["laplacian", "walk", "none"])
def test_a_prior_is_heard_whatever_says_where_features_lie(mdata, positions):
    sets = {"set": [*mdata["rna"].var_names[:12], *mdata["prot"].var_names[:3]]}
    _, without, _ = fitted(mdata, positions=positions)
    model, found, _ = fitted(mdata, prior=sets, positions=positions)
    assert model.is_linked_
    assert np.isfinite(found).all()
    assert not np.allclose(found, without, atol=1e-3)


def test_a_prior_without_a_link_is_said(mdata):
    names = [*mdata["rna"].var_names, *mdata["prot"].var_names]
    eye = (sp.eye_array(len(names), format="csr"), names)
    with pytest.warns(UserWarning, match="links no two features"):
        model, _, _ = fitted(mdata, prior=eye)
    assert not model.is_linked_


@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_a_cell_is_answered_alone_as_among_others_and_the_cells_that_teach_are_heard(mdata):
    asked = ~mdata["rna"].obs_names.isin(mdata["prot"].obs_names)
    one, *others = mdata["rna"].obs_names[asked]
    fewer = mudata.MuData({"rna": mdata["rna"][~mdata["rna"].obs_names.isin(others)], "prot": mdata["prot"]})
    model, among, pair = fitted(mdata)
    _, alone, small = fitted(fewer)
    np.testing.assert_allclose(among[pair.source.obs_names == one], alone[small.source.obs_names == one], atol=1e-5)
    n_heard = [float(layer.n) for layer in model.net_[0].layers]
    teach = len(pair.both) - round(0.15 * len(pair.both))
    assert n_heard == [teach] * 2


def test_it_learns_what_the_mean_does_not_know(mdata):
    _, prediction, pair = fitted(mdata, epochs=25)
    truth = pair.target.dense(pair.both[:, 1])
    off = prediction[pair.both[:, 0]] - truth
    assert (off**2).mean() < 0.6 * ((truth - truth.mean(axis=0)) ** 2).mean()


def test_edges_are_the_values_of_the_genes(mdata):
    model, _, pair = fitted(mdata, epochs=0)
    rows = np.array([3, 0, 7])
    given, values = model.seen(pair.source, rows), sparse(pair.source, rows).toarray()
    np.testing.assert_allclose((given.edges @ torch.eye(values.shape[1])).numpy(), values)
    np.testing.assert_array_equal(given.of_cells.numpy()[:, 0], (values > 0).sum(axis=1))
    np.testing.assert_array_equal(given.of_genes.numpy()[:, 0], (values > 0).sum(axis=0))


@pytest.mark.parametrize("knobs", [{"hidden": 0}, {"dropout": 1.0}, {"attention_dropout": -0.1}, {"n_random": 0}])
def test_numbers_out_of_range_are_refused(knobs):
    with pytest.raises(InputError, match=next(iter(knobs))):
        make("predict_modality", "scmoformer", knobs)
