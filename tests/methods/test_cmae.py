"""CMAE beyond the common checks of every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import PREDICT_MODALITY
from scdance.methods.predict_modality.cmae import Autoencoders

TINY = {
    "hidden": 64,
    "n_common": 20,
    "n_latent": 10,
    "dropout": 0.2,
    "epochs": 40,
    "batch_size": 20,
    "lr": 5e-3,
    "patience": None,
}


@pytest.fixture(scope="module")
def mdata():
    return sd.datasets.toy_pairs(n_obs=200, n_genes=60, n_proteins=12, random_state=1)


def fitted(mdata, labels_key=None, batch_key=None, **knobs):
    model = make("predict_modality", "cmae", {**TINY, **knobs})
    read = {"source": "rna", "target": "prot", "labels_key": labels_key, "batch_key": batch_key}
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, **read)["pair"]
    return model, solve(model, pair=pair, progress=False)[0]["prediction"], pair


@pytest.fixture(scope="module")
def usual(mdata):
    return fitted(mdata)


def places(model, pair):
    """Both places of each cell in the latent space."""
    net = model.net_[0]
    sides = zip(("source", "target"), (pair.source, pair.target), pair.both.T, strict=True)
    with torch.no_grad():
        return [net.encode(torch.from_numpy(cells.dense(at)), role) for role, cells, at in sides]


def net_of(n_types=0):
    torch.manual_seed(0)
    return Autoencoders({"source": [6, 5, 4], "target": [3, 5, 4]}, n_latent=2, n_types=n_types, dropout=0.0)


def test_proteins_are_predicted_through_the_latent_space(usual):
    _, prediction, pair = usual
    truth = pair.target.dense(pair.both[:, 1])
    off = prediction[pair.both[:, 0]] - truth
    assert 1 - (off**2).mean() / ((truth - truth.mean(axis=0)) ** 2).mean() > 0.4


def test_the_anchor_draws_the_two_places_of_a_cell_together(mdata, usual):
    def apart(model, _, pair):
        z = places(model, pair)
        return ((z[0] - z[1]).abs().mean() / torch.cat(z).std(dim=0).mean()).item()

    assert apart(*usual) < 0.6 * apart(*fitted(mdata, anchor=0.0, adversary=0.0))


def test_no_adversary_tells_the_modalities_apart(usual):
    model, _, pair = usual
    z = places(model, pair)
    with torch.no_grad():
        said = [model.net_[0].discriminator(each)[:, 0] > 0.5 for each in z]
    accuracy = ((~said[0]).float().mean() + said[1].float().mean()) / 2
    assert abs(accuracy.item() - 0.5) < 0.2


def test_the_layers_next_to_the_latent_space_are_the_same_for_both():
    net = net_of()
    x, y = torch.rand(4, 6), torch.rand(4, 3)
    before = net.encode(x, "source"), net.encode(y, "target")
    decoded = net.decode(before[0], "source"), net.decode(before[0], "target")
    with torch.no_grad():
        net.into.layers[0].bias += 1
        net.out_of.layers[0].bias += 1
    assert all(
        (net.encode(each, role) != z).any() for each, role, z in ((x, "source", before[0]), (y, "target", before[1]))
    )
    assert all((net.decode(before[0], role) != d).any() for role, d in zip(("source", "target"), decoded, strict=True))


def test_both_losses_are_those_of_numpy():
    net = net_of(n_types=3).eval()
    knobs = {"reconstruct": 2.0, "adversary": 3.0, "anchor": 5.0, "classify": 7.0, "error": "absolute"}
    model = make("predict_modality", "cmae", knobs)
    x, y, labels = torch.rand(4, 6), torch.rand(4, 3), torch.tensor([0, -1, 2, 2])
    (tell, _), (mislead, _) = model.turns(net)
    with torch.no_grad():
        losses = [step(((x, labels), y)).item() for step in (tell, mislead)]
        z = net.encode(x, "source"), net.encode(y, "target")
        said = [net.discriminator(each).numpy() for each in z]
        off = [
            (net.decode(each, role) - seen).abs().mean().item()
            for each, role, seen in zip(z, ("source", "target"), (x, y), strict=True)
        ]
        logits = [net.classifier(each).numpy()[labels >= 0] for each in z]
    entropy = [np.mean(np.log(np.exp(each).sum(axis=1)) - each[[0, 1, 2], [0, 2, 2]]) for each in logits]
    assert losses[0] == pytest.approx(3 * (np.mean(said[0] ** 2) + np.mean((said[1] - 1) ** 2)), rel=1e-4)
    expected = 2 * sum(off) + 3 * (np.mean((said[0] - 1) ** 2) + np.mean(said[1] ** 2)) + 7 * sum(entropy)
    expected += 5 * np.abs((z[0] - z[1]).numpy()).mean()
    assert losses[1] == pytest.approx(expected, rel=1e-4)


def test_the_anchor_is_0_where_the_encoders_agree():
    net = Autoencoders({"source": [6, 4], "target": [6, 4]}, n_latent=2, n_types=0, dropout=0.0)
    net.encoders["target"].load_state_dict(net.encoders["source"].state_dict())
    model = make("predict_modality", "cmae", {"reconstruct": 0.0, "adversary": 0.0})
    ((step, _),) = model.turns(net)
    x = torch.rand(4, 6)
    assert step(((x, None), x)).item() == 0
    assert step(((x, None), x + 1)).item() > 0


def test_each_step_moves_its_own_parameters_only():
    net = net_of(n_types=3)
    turns = make("predict_modality", "cmae", {}).turns(net)
    moved = [{id(each) for each in parameters} for _, parameters in turns]
    adversary = {id(each) for each in net.discriminator.parameters()}
    assert moved == [adversary, {id(each) for each in net.parameters()} - adversary]


def test_types_that_are_given_are_told_apart_in_the_latent_space(mdata, usual):
    assert usual[0].net_[0].classifier is None
    model, _, pair = fitted(mdata, labels_key="cell_type")
    types = torch.from_numpy(pair.source.labels[pair.both[:, 0]].astype(np.int64))
    with torch.no_grad():
        right = [
            (model.net_[0].classifier(z).argmax(dim=1) == types).float().mean().item() for z in places(model, pair)
        ]
    assert min(right) > 0.8


def test_batches_are_no_types(mdata):
    mdata["rna"].obs["donor"] = np.resize(list("abcd"), mdata["rna"].n_obs)
    assert fitted(mdata, batch_key="donor", epochs=1)[0].net_[0].classifier is None
