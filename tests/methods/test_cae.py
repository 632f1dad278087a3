"""The concatenated autoencoder beyond the common checks of every method."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import JOINT_EMBED
from scdance.methods.joint_embed.cae import Net, off_orthogonal

QUICK = {"steps": 200, "batch_size": 64, "n_hidden": 16, "n_latent": 12, "n_restore": 24}
SMALL = {"n_hidden": 4, "n_latent": 3, "n_restore": 5, "dropout": 0.0}


@pytest.fixture(scope="module")
def mdata() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=200, n_genes=120, random_state=0)


def fitted(mdata: mudata.MuData, **knobs):
    model = make("joint_embed", "cae", {**QUICK, **knobs})
    pair = read_roles(JOINT_EMBED, model, mdata, mdata)["pair"]
    z = solve(model, pair=pair, progress=False)[0]["embedding"]
    return model, z, pair


@pytest.fixture(scope="module")
def usual(mdata):
    return fitted(mdata)


def small_net(has_signs=False, **knobs) -> Net:
    torch.manual_seed(0)
    means = {"source": np.ones(6, dtype=np.float32), "target": np.full(3, 2, dtype=np.float32)}
    return Net(means, dict.fromkeys(means, has_signs), **{**SMALL, **knobs})


def residual(net: Net) -> float:
    """How far both encoders are from orthogonal, by numpy."""
    weights = [encoder.weight.detach().numpy() for encoder in net.encoders.values()]
    return sum(float(np.linalg.norm(w @ w.T - np.eye(len(w)))) for w in weights)


def of_step(net: Net, batch, training: bool, **knobs) -> float:
    """Loss of one step on a batch."""
    model = make("joint_embed", "cae", {"dropout": 0.0, **knobs})
    model.net_, model.units_ = net.train(training), {"source": 6.0, "target": 3.0}
    x, y = batch
    return model.step(((x, SimpleNamespace()), y)).item()


def test_types_are_found_in_the_embedding():
    mdata = sd.datasets.toy_pairs()
    sd.tl.joint_embed(mdata, "cae", steps=600, progress=False)
    assert sd.metrics.score(mdata, "joint_embed", key="cae", truth="cell_type")["kmeans_ari"].item() > 0.9


def test_the_embedding_is_what_the_linear_layer_gives(usual):
    model, z, pair = usual
    layers = {name: values.detach().numpy() for name, values in model.net_.named_parameters()}
    seen = {"source": pair.source.dense(pair.both[:, 0]), "target": pair.target.dense(pair.both[:, 1])}
    heard = [
        np.maximum(x @ layers[f"encoders.{role}.weight"].T + layers[f"encoders.{role}.bias"], 0)
        for role, x in seen.items()
    ]
    expected = np.hstack(heard) @ layers["bottleneck.weight"].T + layers["bottleneck.bias"]
    assert z.shape == (200, QUICK["n_latent"])
    np.testing.assert_allclose(z, expected, atol=1e-4)


def test_the_distance_from_an_orthonormal_system_is_that_of_the_formula():
    w = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    expected = np.sqrt(((w @ w.T - np.eye(3)) ** 2).sum())
    assert off_orthogonal(torch.from_numpy(w)).item() == pytest.approx(expected, rel=1e-5)
    assert off_orthogonal(torch.linalg.qr(torch.randn(7, 3)).Q.T).item() == pytest.approx(0, abs=1e-5)


def test_training_brings_the_encoders_closer_to_orthogonal(mdata, usual):
    model, _, _ = usual
    before = residual(model.net())
    assert residual(model.net_) < 0.5 * before
    assert residual(model.net_) < 0.5 * residual(fitted(mdata, orthogonal=0.0)[0].net_)


def test_the_loss_of_a_step_is_that_of_numpy():
    net, x, y = small_net(), torch.rand(5, 6), torch.rand(5, 3)
    with torch.no_grad():
        restored = [each.numpy() for each in net(x, y)]
    errors = [((a.numpy() - b) ** 2).sum() / a.numel() for a, b in zip((x, y), restored, strict=True)]
    assert of_step(net, (x, y), training=False) == pytest.approx(sum(errors), rel=1e-5)
    found = of_step(net, (x, y), training=True, orthogonal=2.0, orthogonal_every=1)
    assert found == pytest.approx(sum(errors) + 2 * residual(net), rel=1e-5)


def test_orthogonality_is_looked_at_in_every_fourth_step_and_then_counts_four_times():
    net, batch = small_net(), (torch.rand(5, 6), torch.rand(5, 3))
    plain = of_step(net, batch, training=False)
    extra = np.array([of_step(net, batch, training=True) - plain for _ in range(8)])
    np.testing.assert_allclose(extra[[0, 1, 2, 4, 5, 6]], 0, atol=1e-5)
    np.testing.assert_allclose(extra[[3, 7]], 4 * residual(net), rtol=1e-4)


def test_outputs_are_below_0_only_where_a_modality_is():
    x, y = 100 * torch.randn(50, 6), 100 * torch.randn(50, 3)
    assert min(each.min().item() for each in small_net()(x, y)) == 0
    assert max(each.min().item() for each in small_net(has_signs=True)(x, y)) < 0


def test_values_below_0_are_noticed(mdata, usual):
    assert usual[0].has_signs_ == {"source": False, "target": False}
    with mudata.set_options(pull_on_update=False):
        signed = mdata.copy()
    proteins = np.log1p(signed["prot"].X.toarray().astype(np.float32))
    signed["prot"].X = proteins - proteins.mean(axis=0)
    model = make("joint_embed", "cae", {**QUICK, "steps": 5})
    pair = read_roles(JOINT_EMBED, model, signed, signed, recipe=None)["pair"]
    solve(model, pair=pair, progress=False)
    assert model.has_signs_ == {"source": False, "target": True}


def test_outputs_start_at_the_mean_of_each_feature(usual):
    model, _, pair = usual
    fresh = model.net()
    mean = pair.source.dense(slice(None)).mean(axis=0)
    np.testing.assert_allclose(fresh.decoders["source"].bias.detach().numpy(), mean, atol=0.1 * mean.max())


def test_the_error_of_a_modality_is_in_units_of_what_its_components_explain(mdata, usual):
    model, _, pair = usual
    x, y = pair.source.dense(pair.both[:, 0]), pair.target.dense(pair.both[:, 1])
    loadings = np.linalg.svd(x, full_matrices=False)[2][: model.n_source]
    assert model.units_["source"] == pytest.approx((x @ loadings.T).var(axis=0).sum(), rel=0.1)
    # no more proteins than components: each is one of its own, and all of their variance counts
    assert model.units_["target"] == pytest.approx(y.var(axis=0).sum(), rel=0.1)
    plain, _, _ = fitted(mdata, balance=False, steps=5)
    assert plain.units_ == {"source": pair.source.n_vars, "target": pair.target.n_vars}


def test_a_few_proteins_do_not_silence_the_genes():
    """Only the genes tell the types; six proteins, each on or off by chance, have more variance in a feature."""
    rna, rng = sd.datasets.toy_clusters(300, 600, n_de=60, lfc=1.6, random_state=1), np.random.default_rng(0)
    counts = rng.poisson(np.where(rng.random((300, 6)) < 0.5, 100, 5)).astype(np.float32)
    prot = ad.AnnData(counts, obs=rna.obs[[]], var=pd.DataFrame(index=[f"protein_{i}" for i in range(6)]))
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": rna, "prot": prot})
    scores = []
    for balance in (True, False):
        sd.tl.joint_embed(both, "cae", **QUICK, balance=balance, progress=False)
        both.obs["cell_type"] = rna.obs["cell_type"]
        found = sd.metrics.score(both, "joint_embed", key="cae", truth="cell_type", metrics=["asw"])
        scores.append(found["asw"].item())
    assert scores[0] > scores[1] + 0.04


def test_the_paper_has_its_numbers():
    model = make("joint_embed", "cae", {}, preset="paper")
    how = model.training
    assert (how.epochs, how.lr, how.batch_size, how.patience) == (600, 1e-4, 32, 20)
    assert (model.valid_share, model.orthogonal_every, model.balance) == (0.2, 1, False)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"dropout": 1.0}, "dropout"), ({"orthogonal": -1.0}, "weight"), ({"n_latent": 0}, "n_latent")],
)
def test_numbers_out_of_range_are_refused(mdata, knobs, said):
    with pytest.raises(ValueError, match=said):
        sd.tl.joint_embed(mdata, "cae", **knobs)


def test_a_continued_training_goes_on_as_if_it_had_not_stopped(mdata, tmp_path):
    whole = fitted(mdata, epochs=6, steps=None)[1]
    model = make("joint_embed", "cae", {**QUICK, "epochs": 6, "steps": None})
    pair = read_roles(JOINT_EMBED, model, mdata, mdata)["pair"]

    step, calls = model.step, count()

    def interrupted(batch):
        if next(calls) > 21:  # in the sixth epoch; the first checkpoint is from the fifth
            raise KeyboardInterrupt
        return step(batch)

    model.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        solve(model, pair=pair, progress=False, checkpoint=tmp_path)
    again = make("joint_embed", "cae", {**QUICK, "epochs": 6, "steps": None})
    np.testing.assert_array_equal(solve(again, pair=pair, progress=False, checkpoint=tmp_path)[0]["embedding"], whole)
