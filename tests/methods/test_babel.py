"""BABEL beyond the common checks of every method."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import nbinom

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import PREDICT_MODALITY
from scdance.methods.predict_modality.babel import InGroups, OutOfGroups, Seen, Translator, chromosomes

TINY = {
    "scale": True,
    "hidden": 16,
    "n_latent": 4,
    "dropout": 0.0,
    "weight": 1.0,
    "epochs": 40,
    "batch_size": 32,
    "patience": None,
    "lr": 3e-3,
}
PEAKS = ["chr1:5-9", "chr2:1-4", "chrX_7_8", "chr1:11-19", "GL000194.1:1-9", "chr2-6-8", "chr1:2-3"]
NONE = np.zeros(0, dtype=np.int32)


@pytest.fixture(scope="module")
def mdata():
    return sd.datasets.toy_pairs(n_obs=200, n_genes=60, n_proteins=12, random_state=1)


def fitted(mdata, source="rna", target="prot", **knobs):
    model = make("predict_modality", "babel", {**TINY, **knobs})
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source=source, target=target)["pair"]
    return model, solve(model, pair=pair, progress=False)[0]["prediction"], pair


def skill(prediction, pair):
    truth = pair.target.dense(pair.both[:, 1])
    off = prediction[pair.both[:, 0]] - truth
    return 1 - (off**2).mean() / ((truth - truth.mean(axis=0)) ** 2).mean()


@pytest.fixture(scope="module")
def all_ways(mdata):
    return fitted(mdata)


@pytest.fixture(scope="module")
def ways_within(mdata):
    return fitted(mdata, cross=0.0)


def test_only_the_ways_between_modalities_teach_to_translate(all_ways, ways_within):
    assert skill(*all_ways[1:]) > 0.5
    assert skill(*ways_within[1:]) < 0.1


def test_types_lie_at_one_place_whichever_modality_they_were_seen_in(mdata, all_ways, ways_within):
    types = mdata.obs["cell_type"].cat.codes.to_numpy()

    def found(model, _, pair):
        """Share of the cells whose type is the nearest one, by the target, of the types by the source."""
        net = model.net_[0]
        with torch.no_grad():
            sides = zip(("source", "target"), (pair.source, pair.target), strict=True)
            z = [net.encoders[role](torch.from_numpy(cells.dense(slice(None)))).numpy() for role, cells in sides]
        middles = np.stack([z[0][types == i].mean(axis=0) for i in range(types.max() + 1)])
        nearest = ((z[1][:, None] - middles) ** 2).sum(axis=2).argmin(axis=1)
        return (nearest == types).mean()

    assert found(*all_ways) > 0.8
    assert found(*ways_within) < 0.6


def test_the_loss_is_the_weighted_sum_of_the_four_ways():
    model = make("predict_modality", "babel", {"weight": 3.0, "cross": 0.5})
    sides = {role: {"n_vars": n, "loss": "rmse", "groups": NONE} for role, n in (("source", 6), ("target", 4))}
    net = Translator(sides, 7, 3, 0.0).eval()
    x = {"source": torch.rand(5, 6), "target": torch.rand(5, 4)}
    with torch.no_grad():
        off = {(of, to): net.decoders[to](net.encoders[of](x[of])) - x[to] for of in x for to in x}
        loss = model.loss(net, *(Seen(each, each, None) for each in x.values())).item()
    rmse = {way: np.sqrt(np.mean(each.numpy() ** 2)) for way, each in off.items()}
    within = rmse["source", "source"] + 3 * rmse["target", "target"]
    assert loss == pytest.approx(within + 0.5 * (rmse["target", "source"] + 3 * rmse["source", "target"]), rel=1e-4)


def test_peaks_are_grouped_by_the_chromosome_in_their_name():
    codes = chromosomes(PEAKS)
    together = [np.flatnonzero(codes == code).tolist() for code in np.unique(codes)]
    assert sorted(together) == [[0, 3, 6], [1, 5], [2], [4]]
    assert chromosomes(["CD3", "CD4"]) is None


def test_the_order_of_peaks_within_a_chromosome_does_not_matter():
    groups, order = chromosomes(PEAKS), np.array([3, 5, 2, 6, 4, 1, 0])
    x = torch.rand(9, len(PEAKS))
    one, other = InGroups(groups, 0.0), InGroups(groups[order], 0.0)
    other.load_state_dict(one.state_dict())
    for g, (part, to) in enumerate(zip(one.parts, other.parts, strict=True)):
        here, there = np.flatnonzero(groups == g), order[np.flatnonzero(groups[order] == g)]
        at = torch.from_numpy(np.searchsorted(here, there))
        to.layers[0].weight.data = part.layers[0].weight.data[:, at]
    np.testing.assert_allclose(one(x).detach(), other(x[:, torch.from_numpy(order)]).detach(), atol=1e-5)


def test_features_of_a_group_come_from_its_own_units_and_return_to_their_columns():
    groups = np.array([1, 0, 1, 2, 0], dtype=np.int32)
    out = OutOfGroups(groups, 0.0).eval()
    h = torch.rand(4, 48)
    moved = h.clone()
    moved[:, 16:32] += 1  # the units of group 1
    changed = (out(moved) != out(h)).any(dim=0).numpy()
    np.testing.assert_array_equal(changed, groups == 1)


def test_negative_binomial_and_cross_entropy_are_those_of_scipy_and_numpy():
    torch.manual_seed(0)
    sides = {
        "source": {"n_vars": 6, "loss": "nb", "groups": NONE},
        "target": {"n_vars": 5, "loss": "bernoulli", "groups": NONE},
    }
    net, z = Translator(sides, 7, 3, 0.0).eval(), torch.randn(4, 3)
    counts, size = torch.randint(0, 9, (4, 6)).float(), torch.tensor([0.5, 1.0, 2.0, 4.0])
    decoder = net.decoders["source"]
    mean, theta, _ = (None if each is None else each.detach().numpy() for each in decoder.head(decoder.body(z), size))
    expected = -nbinom.logpmf(counts.numpy(), theta, theta / (theta + mean)).mean()
    assert decoder.loss(z, Seen(counts, counts, size)).item() == pytest.approx(expected, rel=1e-4)
    rate = mean / mean.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(decoder(z).detach(), np.log1p(1e4 * rate), rtol=1e-4)

    peaks, open_ = net.decoders["target"], torch.randint(0, 2, (4, 5)).float()
    p = expit(peaks.body(z).detach().numpy())
    expected = -np.mean(np.where(open_.numpy() == 1, np.log(p), np.log(1 - p)))
    assert peaks.loss(z, Seen(open_, open_, None)).item() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(peaks(z).detach(), p, rtol=1e-5)


def test_counts_are_answered_in_the_unit_of_the_target(mdata):
    _, prediction, pair = fitted(mdata, "prot", "rna", likelihood="counts", lr=2e-2, epochs=15, shrink=False)
    np.testing.assert_allclose(np.expm1(prediction.astype(float)).sum(axis=1), 1e4, rtol=1e-3)
    assert skill(prediction, pair) > 0.05


def test_log_normalised_rna_has_no_counts_to_learn_from(mdata):
    with mudata.set_options(pull_on_update=False):
        new = mdata.copy()
    x = new["rna"].X.toarray()
    new["rna"].X = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    with pytest.raises(InputError, match="likelihood='gaussian'"):
        fitted(new, likelihood="counts")


def test_fractions_of_normalised_values_reach_the_net(mdata):
    with mudata.set_options(pull_on_update=False):
        new = mdata.copy()
    for each in new.mod.values():
        each.X = np.log1p(0.3 * each.X.toarray())
        each.uns["log1p"] = {}
    model, _, pair = fitted(new, scale=False, epochs=1)
    for name, cells, rows in zip(("rna", "prot"), (pair.source, pair.target), pair.both.T, strict=True):
        expected = new[name][cells.obs_names[rows]].X
        assert np.abs(expected - expected.round()).max() > 0.3
        np.testing.assert_allclose(model._shown(cells)(rows).values, expected, rtol=1e-6)
