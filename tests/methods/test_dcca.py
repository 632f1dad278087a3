"""DCCA: its phases, what each may move, the attraction, and the counts of both modalities."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence
from torch.nn import functional

import scdance as sd
from scdance._checks import InputError
from scdance._core.method import Runtime
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import JOINT_EMBED
from scdance.methods.joint_embed._counts import Normal, Seen, Shares
from scdance.methods.joint_embed.dcca import DCCA, VAE, Open, apart

SMALL = {"hidden": [32], "hidden_other": [32], "n_latent": 6, "n_cycles": 1, "epochs": 15, "follow_epochs": 15}
SMALL |= {"batch_size": 64, "follow_batch_size": 64}
BRIEF = SMALL | {"epochs": 1, "follow_epochs": 1}


@pytest.fixture(scope="module")
def whole() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=240, n_genes=80, k=5, random_state=2)


@pytest.fixture
def mdata(whole: mudata.MuData) -> mudata.MuData:
    with mudata.set_options(pull_on_update=False):
        return whole.copy()


def with_peaks(mdata: mudata.MuData) -> mudata.MuData:
    """The same cells with peaks made of their genes."""
    peaks = mdata["rna"].copy()
    peaks.var_names = [f"chr1-{i}00-{i}50" for i in range(80)]
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({**{name: each.copy() for name, each in mdata.mod.items()}, "atac": peaks})


def embedded(mdata: mudata.MuData, **knobs) -> np.ndarray:
    sd.tl.joint_embed(mdata, "dcca", key_added="here", progress=False, **{**SMALL, **knobs})
    return mdata.obsm["X_here"]


def fitted(mdata: mudata.MuData, source: str = "rna", target: str = "prot", **knobs):
    model = make("joint_embed", "dcca", {**SMALL, **knobs})
    pair = read_roles(JOINT_EMBED, model, mdata, mdata, source=source, target=target)["pair"]
    model.runtime = Runtime(progress=False)
    with model.session():
        return model.fit(pair=pair), pair


def weights(model: DCCA, role: str) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.net_[role].state_dict().items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def between(model: DCCA, pair) -> float:
    """Mean squared distance of both places of a cell."""
    with model.session():
        places = [
            model.posteriors(cells, role).mean[torch.from_numpy(at)]
            for role, cells, at in (
                ("source", pair.source, pair.both[:, 0]),
                ("target", pair.target, pair.both[:, 1]),
            )
        ]
    return (places[0] - places[1]).square().sum(dim=1).mean().item()


# ---------------------------------------------------------------------- parts


def test_means_sum_to_the_library_of_a_cell():
    torch.manual_seed(0)
    size = torch.tensor([1.0, 30.0, 2e5])
    found = Shares(5, 400, likelihood="nb", dispersion="gene")(3 * torch.randn(3, 5), size)
    np.testing.assert_allclose(found.mean.sum(dim=1).detach(), size, rtol=1e-4)


@pytest.mark.parametrize("modality", ["rna", "prot"])
def test_the_counts_of_genes_and_proteins_are_negative_binomial(modality):
    torch.manual_seed(0)
    net = VAE({"modality": modality, "n_in": 3, "n_vars": 6}, [5], 2, dropout=0.0, n_batches=0).eval()
    counts = torch.poisson(torch.full((8, 6), 3.0))
    seen = Seen(torch.randn(8, 3), counts, counts.sum(dim=1), torch.ones(8, dtype=torch.bool), None)
    z = torch.randn(8, 2)
    with torch.no_grad():
        mean, theta, _ = net.head(net.decoder(z), seen.library)
        found = net.unexplained(z, seen).item()
    mean, theta = mean.numpy().astype(float), theta.numpy().astype(float)
    expected = -nbinom.logpmf(counts.numpy(), theta, theta / (theta + mean)).sum(axis=1).mean()
    assert found == pytest.approx(expected, rel=1e-4)


def test_peaks_are_open_or_not_and_depth_raises_the_odds():
    torch.manual_seed(0)
    head, h = Open(3, 5), torch.randn(4, 3)
    counts = torch.poisson(torch.full((4, 5), 1.0))
    chance = torch.sigmoid(head(h) + np.log(7.0))
    expected = functional.binary_cross_entropy(chance, (counts > 0).float()).item()
    assert head.loss(h, counts, torch.full((4,), 7.0)).item() == pytest.approx(expected, rel=1e-4)
    assert isinstance(VAE({"modality": "atac", "n_in": 3, "n_vars": 6}, [5], 2, dropout=0.0, n_batches=0).head, Open)


def test_peaks_start_at_how_often_they_are_open():
    head, mean = Open(3, 4), torch.tensor([0.01, 0.2, 1.0, 200.0])
    head.start_at(mean)
    odds = (head(torch.zeros(1, 3)) + mean.sum().log()).sigmoid()[0]
    np.testing.assert_allclose(odds.detach(), 1 - np.exp(-mean.numpy()), rtol=1e-4)


def test_both_distances_are_those_of_the_formulas():
    torch.manual_seed(0)
    q, p = (Normal(torch.randn(5, 3), torch.randn(5, 3)) for _ in range(2))
    np.testing.assert_allclose(apart(q, p, "euclid"), ((q.mean - p.mean) ** 2).sum(dim=1), rtol=1e-5)
    of_torch = [TorchNormal(each.mean, (each.log_variance / 2).exp()) for each in (q, p)]
    np.testing.assert_allclose(apart(q, p, "kl"), kl_divergence(*of_torch).sum(dim=1), rtol=1e-4)
    for how in ("euclid", "kl"):
        np.testing.assert_allclose(apart(q, q, how), 0, atol=1e-5)


# ---------------------------------------------------------------------- phases


@pytest.fixture(scope="module")
def not_drawn(whole):
    return fitted(whole, n_cycles=0)


@pytest.mark.parametrize("attraction", ["euclid", "kl"])
def test_the_second_modality_is_drawn_to_the_first(whole, not_drawn, attraction):
    assert between(*fitted(whole, attraction=attraction)) < 0.5 * between(*not_drawn)


def test_the_first_modality_stays_bit_by_bit_while_it_draws_the_second(whole, not_drawn):
    drawn, _ = fitted(whole)
    assert same(weights(drawn, "source"), weights(not_drawn[0], "source"))
    assert not same(weights(drawn, "target"), weights(not_drawn[0], "target"))


def test_in_the_second_cycle_the_first_modality_is_drawn_too(whole, not_drawn):
    twice, _ = fitted(whole, n_cycles=2, follow_epochs=5)
    assert not same(weights(twice, "source"), weights(not_drawn[0], "source"))
    stages = ["first", "second", "second_1", "first_2", "second_2"]
    assert [name.removesuffix("_valid_loss") for name in twice.history_ if name.endswith("valid_loss")] == stages


def test_only_the_modality_in_turn_moves_in_each_phase(whole, monkeypatch):
    moved, train_one = {}, DCCA.train_one

    def watched(self, stage, role, *given):
        before = {each: weights(self, each) for each in ("source", "target")}
        train_one(self, stage, role, *given)
        moved[stage] = [each for each in before if not same(before[each], weights(self, each))]

    monkeypatch.setattr(DCCA, "train_one", watched)
    fitted(whole, **BRIEF | {"n_cycles": 2})
    assert moved == {
        "first": ["source"],
        "second": ["target"],
        "second_1": ["target"],
        "first_2": ["source"],
        "second_2": ["target"],
    }


def test_only_held_out_cells_of_both_modalities_end_a_phase(whole, monkeypatch):
    seen, run = [], DCCA.run
    monkeypatch.setattr(
        DCCA, "run", lambda self, step, batches, valid, **how: seen.append((batches.rows, valid))
        or run(self, step, batches, valid, **how),
    )  # fmt: skip
    some = sd.datasets.toy_pairs(n_obs=120, n_genes=60, unpaired=0.2)
    fitted(some, **BRIEF)
    assert len(seen) == 3
    for rows, valid in seen:
        assert (rows >= 0).all()
        assert (valid >= 0).all()
        assert not {tuple(each) for each in rows} & {tuple(each) for each in valid}


# ---------------------------------------------------------------------- whole runs


def test_types_are_apart_in_the_space(mdata):
    assert embedded(mdata).shape == (240, 12)
    score = sd.metrics.score(mdata, "joint_embed", key="here", truth="cell_type", metrics=["kmeans_ari"])
    assert score["kmeans_ari"].item() > 0.9


def test_rna_comes_first_whichever_role_it_has(mdata):
    model, pair = fitted(mdata, source="prot", target="rna", **BRIEF)
    assert model.order == ("target", "source")
    with model.session():
        z = model.predict(pair=pair)["embedding"]
        rna = model.posteriors(pair.target, "target").mean
    np.testing.assert_allclose(z[:, :6], rna, atol=1e-5)


def test_the_space_of_rna_alone_may_be_the_answer(mdata):
    both = embedded(mdata, **BRIEF)
    np.testing.assert_array_equal(embedded(mdata, output="rna", **BRIEF), both[:, :6])
    assert embedded(mdata, output="rna", source="prot", target="rna", **BRIEF).shape == (240, 6)


def test_the_space_of_rna_needs_rna(whole):
    with pytest.raises(InputError, match="concat"):
        embedded(with_peaks(whole), output="rna", source="atac", target="prot", **BRIEF)


@pytest.mark.parametrize(("source", "target"), [("rna", "atac"), ("atac", "rna"), ("atac", "prot")])
@pytest.mark.parametrize("encode", ["scores", "features"])
def test_peaks_may_take_either_role(whole, source, target, encode):
    z = embedded(with_peaks(whole), source=source, target=target, encode=encode, **BRIEF)
    assert np.isfinite(z).all()


def test_a_cell_of_one_modality_lies_among_those_of_its_type(mdata):
    mods = dict(mdata.mod)
    mods["prot"] = mods["prot"][20:].copy()
    with mudata.set_options(pull_on_update=False):
        some = mudata.MuData(mods)
    z, types = embedded(some), mdata.obs.loc[some.obs_names, "cell_type"].to_numpy()
    lone = ~np.isin(some.obs_names, mods["prot"].obs_names)
    centers = np.stack([z[~lone & (types == each)].mean(axis=0) for each in np.unique(types)])
    nearest = np.unique(types)[((z[lone][:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)]
    assert lone.sum() == 20
    assert (nearest == types[lone]).mean() > 0.8


@pytest.mark.parametrize("encode", ["scores", "features"])
def test_features_without_a_count_and_a_cell_of_many_are_no_problem(whole, encode):
    mdata = with_peaks(whole)
    for name in ("rna", "prot", "atac"):
        counts = mdata[name].X.toarray()
        counts[:, :3] = 0
        counts[0, 3:] = 10_000 * (counts[0, 3:] + 1)
        mdata[name].X = counts
    assert np.isfinite(embedded(mdata, source="rna", target="prot", encode=encode)).all()
    assert np.isfinite(embedded(mdata, source="rna", target="atac", encode=encode)).all()


def test_twelve_cells_are_enough_to_run(whole):
    with mudata.set_options(pull_on_update=False):
        assert embedded(whole[:12].copy(), **BRIEF).shape == (12, 12)


def test_the_decoders_are_told_the_batch_and_the_encoders_are_not(mdata):
    mdata.obs["donor"] = np.resize(list("ab"), 240)
    model = sd.fit("joint_embed", mdata, method="dcca", batch_key="donor", progress=False, **BRIEF)
    assert [net.decoder.n_covariates for net in model.net_.values()] == [2, 2]
    sd.tl.joint_embed(mdata, model, key_added="one", batch_key="donor")
    mdata.obs["donor"] = "another"
    sd.tl.joint_embed(mdata, model, key_added="other", batch_key="donor")
    np.testing.assert_array_equal(mdata.obsm["X_one"], mdata.obsm["X_other"])


@pytest.mark.parametrize(("preset", "n_dims"), [("paper", 4), ("dance", 100)])
def test_presets_run(mdata, preset, n_dims):
    knobs = {"hidden_other": [16, 8], "epochs": 1, "follow_epochs": 1, "preset": preset}
    sd.tl.joint_embed(mdata, "dcca", progress=False, **knobs)
    assert mdata.obsm["X_dcca"].shape == (240, n_dims)


@pytest.mark.parametrize("knobs", [{"n_cycles": -1}, {"attract": -1.0}, {"attract_first": -1.0}, {"hidden_other": []}])
def test_numbers_out_of_range_are_refused(mdata, knobs):
    with pytest.raises(InputError, match=next(iter(knobs))):
        embedded(mdata, **knobs)
