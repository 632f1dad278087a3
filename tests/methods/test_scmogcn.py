"""scMoGNN beyond the common checks of every method."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.special import erf
from sklearn.metrics.pairwise import cosine_similarity

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import PREDICT_MODALITY
from scdance.graph import Sparse
from scdance.methods.predict_modality._facts import FACTS, cosines, facts_of_batches, facts_of_cells, sparse
from scdance.nn import CellFeatureNet, CellGraph

TINY = {"hidden": 16, "n_layers": 2, "n_components": 5, "epochs": 4, "batch_size": 32, "patience": None, "lr": 1e-2}
PARTS = {"hidden": 16, "n_layers": 3, "embedding_layers": 1, "dropout": 0.3, "alpha": None}


@pytest.fixture(scope="module")
def mdata():
    mdata = sd.datasets.toy_pairs(n_obs=120, n_genes=40, n_proteins=8, unpaired=0.2, random_state=1)
    mdata["rna"].obs["donor"] = np.array(list("abcd"))[np.arange(mdata["rna"].n_obs) % 4]
    return mdata


@pytest.fixture
def x():
    x = sp.random(14, 9, density=0.4, random_state=0, dtype=np.float32).toarray()
    x[13], x[:, 4] = 0, 0  # a cell and a feature without a value
    return sp.csr_matrix(x)


def read(mdata, knobs=TINY, **arguments):
    model = make("predict_modality", "scmogcn", knobs)
    return model, read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot", **arguments)["pair"]


def fitted(mdata, prior=None, batch_key=None, **knobs):
    model, pair = read(mdata, {**TINY, **knobs}, prior=prior, batch_key=batch_key)
    return model, solve(model, pair=pair, progress=False)[0]["prediction"], pair


def seen(x, n_scores=0, facts=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    counts = [torch.from_numpy(x.getnnz(axis).astype(np.float32)[:, None]) for axis in (1, 0)]
    z = torch.randn(x.shape[0], n_scores, generator=draw) if n_scores else None
    facts = torch.randn(x.shape[0], 9, generator=draw) if facts is None else facts
    return CellGraph(Sparse(x), *counts, facts, z)


def net(n_vars, n_scores=0, **knobs):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = CellFeatureNet(
            **{**PARTS, "residual": "initial", "readout": "sum", **knobs},
            n_vars=n_vars,
            n_scores=n_scores,
            n_facts=FACTS,
            n_out=5,
        )
        torch.nn.init.normal_(made.head.weight)  # an answer of 0 would tell nothing
        if made.weights is not None:
            torch.nn.init.normal_(made.weights)
    return made.eval()


def ring(n):
    """The mean of the two neighbours on a ring of features."""
    eye = sp.eye_array(n, format="csr")
    return Sparse(((eye[np.roll(np.arange(n), 1)] + eye[np.roll(np.arange(n), -1)]) / 2).astype(np.float32).tocsr())


def test_one_layer_is_that_of_numpy(x):
    made, given = net(9, n_layers=1), seen(x)
    with torch.no_grad():
        found = made(given).numpy()
    w = {name: value.numpy().astype(float) for name, value in made.state_dict().items()}

    def leaky(a):
        return np.where(a > 0, a, 0.01 * a)

    dense, facts = x.toarray().astype(float), given.facts.numpy()
    h_c = leaky(w["cell"]) + leaky(facts @ w["batch.0.weight"].T + w["batch.0.bias"])
    h_f = leaky(w["feature"])
    heard = np.array([row @ h_f / max((row != 0).sum(), 1) for row in dense])
    relation = "layers.0.to_cells."
    h = h_c @ w[f"{relation}own.weight"].T + w[f"{relation}own.bias"] + heard @ w[f"{relation}others.weight"].T
    groups = h.reshape(len(h), 4, 4)
    groups = (groups - groups.mean(axis=2, keepdims=True)) / np.sqrt(groups.var(axis=2, keepdims=True) + 1e-5)
    h = groups.reshape(h.shape) * w[f"{relation}norm.weight"] + w[f"{relation}norm.bias"]
    h = h * (1 + erf(h / np.sqrt(2))) / 2
    np.testing.assert_allclose(found, h @ w["head.weight"].T + w["head.bias"], atol=1e-4)


def test_the_convolution_is_that_of_pytorch_geometric(x):
    pyg = pytest.importorskip("torch_geometric.nn")
    layer, given = net(9).layers[0], seen(x)
    conv = pyg.GraphConv((16, 16), 16, aggr="mean")
    conv.lin_rel.weight, conv.lin_root.weight = layer.to_features.others.weight, layer.to_features.own.weight
    conv.lin_rel.bias = layer.to_features.own.bias
    cells, features = torch.randn(14, 16), torch.randn(9, 16)
    edges = x.tocoo()
    index = torch.from_numpy(np.stack([edges.row, edges.col]).astype(np.int64))
    expected = conv((cells, features), index, torch.from_numpy(edges.data))
    heard = given.edges.T @ layer.to_features.others(cells) / given.of_features.clamp(min=1)
    torch.testing.assert_close(layer.to_features.own(features) + heard, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("residual", ["initial", "previous", "add", "none"])
@pytest.mark.parametrize(("readout", "alpha", "embedding_layers"), [("sum", 0.3, 1), ("concat", None, 2)])
def test_recalled_answers_are_those_of_the_whole_graph(x, residual, readout, alpha, embedding_layers):
    made = net(9, 4, residual=residual, readout=readout, alpha=alpha, embedding_layers=embedding_layers)
    links, whole = (None if alpha is None else ring(9)), seen(x, 4)
    places = [np.arange(5), np.arange(5, 14)]
    parts = [seen(x[at], facts=whole.facts[at])._replace(z=whole.z[at]) for at in places]
    made.listen(lambda: iter(parts), links)
    with torch.no_grad():
        expected = made(whole, links)
        torch.testing.assert_close(torch.cat([made.recall(part) for part in parts]), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(made(parts[0], links), expected[:5], atol=1e-2)  # a part alone is another graph


@pytest.mark.parametrize("n_scores", [0, 4])
def test_without_edges_only_the_batch_and_the_scores_speak(n_scores):
    made, facts = net(9, n_scores), torch.randn(2, 9)[[0, 1, 0, 1]]
    empty = seen(sp.csr_matrix((4, 9), dtype=np.float32), facts=facts)
    empty = empty._replace(z=torch.zeros(4, n_scores) if n_scores else None)
    with torch.no_grad():
        out = made(empty)
    torch.testing.assert_close(out[:2], out[2:])
    assert not torch.allclose(out[0], out[1], atol=1e-3)


def test_with_alpha_1_features_do_not_hear_cells_and_with_0_not_each_other(x):
    def moved(alpha, relation):
        made = net(9, alpha=alpha)
        with torch.no_grad():
            before = made(seen(x), ring(9))
            for layer in made.layers:
                getattr(layer, relation).others.weight *= torch.linspace(-2, 2, 16)[:, None]
            return float((made(seen(x), ring(9)) - before).abs().max())

    assert moved(1.0, "to_features") == moved(0.0, "among_features") == 0
    assert min(moved(0.5, "to_features"), moved(0.5, "among_features")) > 1e-3


def test_facts_of_cells_are_those_of_numpy(x):
    found = facts_of_cells(x)
    for row, facts in zip(x.toarray().astype(float), found, strict=True):
        some = row[row != 0]
        if not len(some):
            np.testing.assert_array_equal(facts, 0)
            continue
        expected = [row.mean(), row.std(), *np.quantile(some, [0.25, 0.5, 0.75, 1]), len(some) / 1000]
        np.testing.assert_allclose(facts, [*expected, some.mean(), some.std()], atol=1e-6)


def test_facts_of_batches_are_standardised_means_and_0_for_those_unseen(mdata):
    source = read(mdata, batch_key="donor")[1].source
    rows = np.flatnonzero(source.batch != 2)
    found = facts_of_batches(source, rows)
    facts = facts_of_cells(sparse(source, rows))
    means = np.array([facts[source.batch[rows] == b].mean(axis=0) for b in (0, 1, 3)])
    np.testing.assert_allclose(found[[0, 1, 3]], (means - means.mean(axis=0)) / means.std(axis=0), atol=1e-4)
    np.testing.assert_array_equal(found[[2, 4]], 0)


def test_cosines_are_those_of_scikit_learn(mdata, monkeypatch):
    from scdance.methods.predict_modality import _facts

    monkeypatch.setattr(_facts, "COLUMNS", 7)
    source = read(mdata)[1].source
    links = sp.random(40, 40, density=0.1, format="csr", random_state=0, dtype=np.float32)
    links = (links + links.T).tocsr()
    rows = np.arange(5, 60)
    expected = cosine_similarity(source.x[rows].T.toarray().astype(float))
    expected[(links.toarray() == 0) | (expected <= 0.4)] = 0
    np.testing.assert_allclose(cosines(source, rows, links, 0.4).toarray(), expected, atol=1e-5)
    assert cosines(source, rows, links, -1).nnz == links.nnz


def test_it_learns_what_the_mean_does_not_know(mdata):
    _, prediction, pair = fitted(mdata, epochs=30, edge_dropout=0.0)
    truth = pair.target.dense(pair.both[:, 1])
    off = prediction[pair.both[:, 0]] - truth
    assert (off**2).mean() < 0.6 * ((truth - truth.mean(axis=0)) ** 2).mean()


@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_asked_cells_take_part_only_if_told_to(mdata):
    asked = ~mdata["rna"].obs_names.isin(mdata["prot"].obs_names)
    one, *others = mdata["rna"].obs_names[asked]
    fewer = mudata.MuData({"rna": mdata["rna"][~mdata["rna"].obs_names.isin(others)], "prot": mdata["prot"]})

    def answer(data, **knobs):
        model, prediction, pair = fitted(data, batch_key="donor", **knobs)
        return model.notes_["transductive"], prediction[pair.source.obs_names == one]

    for transductive in (False, True):
        noted, among_all = answer(mdata, transductive=transductive)
        _, alone = answer(fewer, transductive=transductive)
        assert noted is transductive
        assert np.allclose(among_all, alone, atol=1e-5) is not transductive


def test_cells_without_a_target_join_the_batches_of_the_transductive_graph(mdata):
    model, pair = read(mdata, {**TINY, "transductive": True, "batch_size": 24})
    with model.session():
        model.features_ = {"mean": np.zeros(8, dtype=np.float32)}
        model.notes_ = {}
        model.prepare(pair, pair.both)
        sizes = [(len(given.facts), len(y)) for given, y in model.batches(pair, pair.both, 24, "training")]
    others = pair.source.n_obs - len(pair.both)
    assert sum(n for _, n in sizes) == len(pair.both)
    assert sum(n for n, _ in sizes) == pytest.approx(pair.source.n_obs, abs=len(sizes))
    assert all(n - n_y == round(others * n_y / len(pair.both)) for n, n_y in sizes)


def test_answers_shrink_to_the_mean_where_the_source_says_nothing(mdata):
    with mudata.set_options(pull_on_update=False):
        strangers = mudata.MuData({"rna": mdata["rna"], "prot": mdata["prot"][::-1].copy()})
    strangers["prot"].obs_names = mdata["prot"].obs_names
    trust = {}
    for name, data in (("known", mdata), ("strangers", strangers)):
        for shrink in (True, False):
            trust[name, shrink] = float(fitted(data, shrink=shrink, epochs=15, edge_dropout=0.0)[0].trust_[0])
    assert trust["strangers", True] < 0.5 < trust["known", True]
    assert trust["known", False] == trust["strangers", False] == 1


def test_the_trust_is_the_slope_less_its_error(mdata):
    model, _, pair = fitted(mdata, epochs=15)
    net, rows = model.net_[0], pair.both[::3]
    said = model.say(net, model.seen(pair.source, rows[:, 0])) - model.tensor(model.features_["mean"])
    said = said.detach().numpy().astype(float)
    truth = pair.target.dense(rows[:, 1]) - model.features_["mean"]
    slope = (said * truth).sum() / (said**2).sum()
    per_cell = (said * (truth - slope * said)).sum(axis=1)
    expected = slope - np.sqrt((per_cell**2).sum()) / (said**2).sum()
    assert model._trust(net, pair, rows) == pytest.approx(np.clip(expected, 0, 1), abs=1e-4)


def test_a_prior_is_heard_and_one_of_strangers_is_said(mdata):
    genes = mdata["rna"].var_names
    _, without, _ = fitted(mdata)
    model, found, _ = fitted(mdata, prior={"set": list(genes[:12])}, prior_threshold=-1)
    assert model.is_linked_
    assert not np.allclose(found, without, atol=1e-3)
    with pytest.warns(UserWarning, match="no two features of the source"):
        fitted(mdata, prior={"set": list(mdata["prot"].var_names)})


@pytest.mark.parametrize("knobs", [{"hidden": 10}, {"alpha": 1.5}, {"edge_dropout": 1.0}, {"n_layers": 0}])
def test_numbers_out_of_range_are_refused(knobs):
    with pytest.raises(InputError, match=next(iter(knobs))):
        make("predict_modality", "scmogcn", knobs)


def test_edges_are_the_normalised_values(mdata):
    model, _, pair = fitted(mdata, epochs=0)
    rows = pair.both[:6, 0]
    given = model.seen(pair.source, rows)
    counts = mdata["rna"][pair.source.obs_names[rows]].X.toarray().astype(float)
    depths = np.asarray(mdata["rna"].X.sum(axis=1)).ravel()[np.isin(mdata["rna"].obs_names, pair.source.obs_names)]
    teach = np.isin(pair.source.obs_names, pair.source.obs_names[pair.both[:, 0]])
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * np.median(depths[teach]))
    np.testing.assert_allclose((given.edges @ torch.eye(40)).numpy(), expected, rtol=1e-4)
    np.testing.assert_array_equal(given.of_cells.numpy()[:, 0], (counts > 0).sum(axis=1))
