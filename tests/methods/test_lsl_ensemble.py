"""Trees and nets together: their trees against scikit-learn's, their weights, what the residual net is trained for."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

import scdance as sd
from scdance._core.method import Runtime
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY
from scdance.methods.predict_modality._trees import as_arrays, boosted, forest, told_by
from scdance.methods.predict_modality.lsl_ensemble import SHARES, ResNet

TINY = {
    "n_source": 10,
    "n_target": 6,
    "n_trees": 8,
    "n_forest": 5,
    "hidden": 16,
    "epochs": 4,
    "batch_size": 32,
}


@pytest.fixture
def mdata() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=160, n_genes=100, random_state=3)


@pytest.fixture(scope="module")
def bent() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    return x, np.column_stack([np.sin(2 * x[:, 0]), x[:, 1] * x[:, 2]])


def fitted(mdata: mudata.MuData, batch_key: str | None = None, **knobs):
    model = make("predict_modality", "lsl_ensemble", TINY | knobs)
    model.runtime = Runtime(progress=False)
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot", batch_key=batch_key)["pair"]
    with model.session():
        model.fit(pair=pair)
    return model, pair


def test_the_arrays_of_a_forest_say_what_scikit_learn_does(bent):
    x, y = bent
    model = RandomForestRegressor(7, random_state=0, max_depth=6).fit(x, y)
    np.testing.assert_allclose(told_by(as_arrays(model.estimators_, 2, 1 / 7), x), model.predict(x), atol=1e-5)
    one = forest(x, y[:, :1], np.random.default_rng(0), n_trees=5, min_samples_leaf=5)
    assert told_by(one, x).shape == (300, 1)


def test_boosting_with_one_output_is_scikit_learns(bent):
    x, y = bent[0], bent[1][:, :1] - bent[1][:, :1].mean()
    nobody = (x[:0], y[:0])
    ours = boosted(x, y, nobody, np.random.default_rng(0), n_trees=20, depth=3, rate=0.2, share=1.0)
    knobs = {"n_estimators": 20, "max_depth": 3, "learning_rate": 0.2, "min_samples_leaf": 10}
    theirs = GradientBoostingRegressor(**knobs, random_state=0).fit(x, y[:, 0])
    np.testing.assert_allclose(told_by(ours, x)[:, 0], theirs.predict(x), atol=0.02)


def test_no_tree_is_kept_where_none_helps_cells_that_were_held_out(bent):
    x, y = bent
    against = (x[:50], -y[:50])
    trees = boosted(x, y, against, np.random.default_rng(0), n_trees=10, depth=3, rate=0.2, share=0.5)
    assert len(trees["first"]) == 0
    assert not told_by(trees, x).any()


@pytest.mark.parametrize("members", [tuple(SHARES), ("boosting", "mlp", "resnet"), ("forest",)])
def test_fixed_weights_of_fewer_members_are_their_shares(mdata, members):
    model, _ = fitted(mdata, weights="fixed", members=members)
    given = np.array([{"boosting": 2, "mlp": 1, "resnet": 1, "forest": 2}[name] for name in members])
    np.testing.assert_allclose(model.shares_[0], given / given.sum())
    assert set(model.trees_[0]) == set(members) & {"boosting", "forest"}
    assert set(model.net_[0]) == set(members) & {"mlp", "resnet"}


def test_learnt_weights_are_least_squares_without_negative_ones(mdata):
    from scipy.optimize import nnls

    model, _ = fitted(mdata)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 6))
    said = np.stack([truth + rng.normal(size=truth.shape) for _ in range(3)] + [-truth])
    expected = nnls(said.reshape(4, -1).T, truth.ravel())[0]
    np.testing.assert_allclose(model._weights(said, truth), expected, atol=1e-4)
    assert expected[3] == 0


def test_the_answer_is_the_weighted_sum_of_what_the_members_say(mdata):
    model, pair = fitted(mdata, weights="fixed")
    space = model.spaces_[0]
    x = model._inputs(pair.source, slice(None), 0)
    said = model._said(0, x)
    with torch.no_grad():
        np.testing.assert_allclose(said[1], model.net_[0]["mlp"](torch.from_numpy(x)), atol=1e-6)
    scores = (2 * said[0] + said[1] + said[2] + 2 * said[3]) / 6 * space["scale"][1]
    expected = np.maximum(model.features_["mean"] + scores @ space["target"], 0)
    with model.session():
        np.testing.assert_allclose(model.predict(pair=pair)["prediction"], expected, atol=1e-4)


def test_decompositions_are_learnt_without_the_cells_that_are_held_out(mdata):
    model, pair = fitted(mdata, n_ensemble=3)
    for member in range(3):
        rows, out = model.divide(member, np.arange(160), None)
        assert len(out) in (53, 54)
        x = np.vstack(list(pair.source.dense_blocks()))[rows]
        basis = np.linalg.svd(x, full_matrices=False)[2][:10]
        overlap = np.linalg.svd(model.spaces_[member]["source"] @ basis.T)[1]
        np.testing.assert_allclose(overlap, 1, atol=1e-3)


def test_batches_are_told_from_the_second_block_only_where_they_are_asked_for(mdata):
    mdata["rna"].obs["batch"] = np.resize(["a", "b"], 160)
    assert fitted(mdata, "batch")[0].net_[0]["resnet"].tells is None
    assert fitted(mdata, batch_share=0.5)[0].net_[0]["resnet"].tells is None
    assert fitted(mdata, "batch", batch_share=0.5)[0].net_[0]["resnet"].tells.out_features == 2
    net = ResNet(4, 8, 3, dropout=0.0, n_batches=2)
    _, told = net.both(torch.randn(16, 4))
    told.sum().backward()
    assert net.steps[1].weight.grad is not None
    assert net.steps[2].weight.grad is None


def test_the_residual_net_adds_each_layer_to_what_it_got():
    net = ResNet(4, 8, 3, dropout=0.0, n_batches=0).eval()
    x = torch.randn(5, 4)
    h = net.first(x)
    for step in net.steps:
        h = torch.relu((h + h @ step.weight.T + step.bias) / np.sqrt(1 + 1e-5))  # batch norm as it starts
    torch.testing.assert_close(net(x), net.head(h))


def test_members_that_are_none_are_refused(mdata):
    with pytest.raises(ValueError, match="members"):
        fitted(mdata, members=("boosting", "stump"))


def test_the_published_folds_are_five():
    model = make("predict_modality", "lsl_ensemble", {}, preset="paper")
    teach = np.arange(100)
    folds = [np.setdiff1d(teach, model.divide(member, teach, None)[0]) for member in range(model.n_ensemble)]
    assert [len(fold) for fold in folds] == [20] * 5
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), teach)
