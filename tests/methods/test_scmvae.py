"""scMVAE: the product of experts, the mixture prior, libraries, and cells of one modality."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch.distributions import Categorical, Independent, MixtureSameFamily, kl_divergence
from torch.distributions import Normal as TorchNormal

import scdance as sd
from scdance._checks import InputError
from scdance._core.method import Runtime
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import JOINT_EMBED
from scdance.methods.joint_embed._counts import STANDARD, Normal, Seen, divergence
from scdance.methods.joint_embed.scmvae import Mixture, Net, ScMVAE, partly_hidden, product

SMALL = {"hidden": [32], "n_latent": 6, "n_components": 5, "pretrain_epochs": 15, "epochs": 15}
SMALL |= {"pretrain_batch_size": 64, "batch_size": 64}
BRIEF = SMALL | {"pretrain_epochs": 1, "epochs": 1}
SIDES = {
    "source": {"modality": "rna", "n_vars": 7, "n_in": 3, "library": [6.0, 0.5]},
    "target": {"modality": "prot", "n_vars": 4, "n_in": 4, "library": [2.0, 0.2]},
}


@pytest.fixture(scope="module")
def whole() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=240, n_genes=80, k=5, random_state=2)


def copied(mdata: mudata.MuData) -> mudata.MuData:
    with mudata.set_options(pull_on_update=False):
        return mdata.copy()


def lacking(mdata: mudata.MuData, **cells: slice) -> mudata.MuData:
    """The same cells, of which some lack a modality."""
    mods = {name: each.copy() for name, each in mdata.mod.items()}
    for name, some in cells.items():
        mods[name] = mods[name][~np.isin(mods[name].obs_names, mdata.obs_names[some])].copy()
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(mods)[mdata.obs_names].copy()


def embedded(mdata: mudata.MuData, **knobs) -> np.ndarray:
    sd.tl.joint_embed(mdata, "scmvae", key_added="here", progress=False, **{**SMALL, **knobs})
    return mdata.obsm["X_here"]


def fitted(mdata: mudata.MuData, **knobs):
    model = make("joint_embed", "scmvae", {**SMALL, **knobs})
    pair = read_roles(JOINT_EMBED, model, mdata, mdata)["pair"]
    model.runtime = Runtime(progress=False)
    with model.session():
        return model.fit(pair=pair), pair


def some_net(**knobs) -> tuple[Net, Seen, Seen]:
    torch.manual_seed(0)
    how = {"dropout": 0.0, "likelihood": "nb", "n_components": 3, "n_batches": 0}
    net = Net(SIDES, [5], 2, **{**how, **knobs}).eval()
    seen = []
    for side in SIDES.values():
        counts = torch.poisson(torch.full((9, side["n_vars"]), 2.0))
        there = torch.ones(9, dtype=torch.bool)
        seen.append(Seen(torch.randn(9, side["n_in"]), counts, counts.sum(dim=1).clamp(min=1), there, None))
    return net, *seen


def some_normal(n: int, n_dims: int) -> Normal:
    return Normal(torch.randn(n, n_dims), torch.randn(n, n_dims))


def some_mixture(mean: float = 1.0) -> tuple[Mixture, MixtureSameFamily]:
    """A mixture of three components in two dimensions, and that of torch."""
    prior = Mixture(3, 2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.mean.copy_(mean * torch.tensor([[0.0, 0.0], [2.0, -1.0], [-1.0, 3.0]]))
        prior.log_variance.copy_(torch.tensor([[0.0, -1.0], [-0.5, 0.3], [0.2, 0.1]]))
    parts = Independent(TorchNormal(prior.mean.detach(), (prior.log_variance.detach() / 2).exp()), 1)
    return prior, MixtureSameFamily(Categorical(logits=prior.logits.detach()), parts)


def as_torch(q: Normal) -> TorchNormal:
    return TorchNormal(q.mean, (q.log_variance / 2).exp())


# ---------------------------------------------------------------------- product of experts


def test_with_one_expert_the_product_is_that_expert_times_the_prior():
    q, says = some_normal(4, 3), torch.ones(4, dtype=torch.bool)
    found = product([(q, says), (some_normal(4, 3), ~says)])
    variance = q.log_variance.exp()
    np.testing.assert_allclose(found.log_variance.exp(), variance / (1 + variance), rtol=1e-5)
    np.testing.assert_allclose(found.mean, q.mean / (1 + variance), rtol=1e-5)


def test_the_product_of_two_experts_and_the_prior_is_that_of_their_densities():
    a, b, says = some_normal(1, 1), some_normal(1, 1), torch.ones(1, dtype=torch.bool)
    found = product([(a, says), (b, says)])
    z = torch.linspace(-15, 15, 200_001)
    log = TorchNormal(0, 1).log_prob(z) + as_torch(a).log_prob(z)[0] + as_torch(b).log_prob(z)[0]
    weights = log.double().softmax(dim=0)
    mean = (weights * z).sum()
    assert found.mean.item() == pytest.approx(mean.item(), rel=1e-3)
    assert found.log_variance.exp().item() == pytest.approx((weights * (z - mean) ** 2).sum().item(), rel=1e-3)


def test_without_experts_the_product_is_the_prior():
    found = product([(some_normal(4, 3), torch.zeros(4, dtype=torch.bool))])
    np.testing.assert_array_equal(found.mean, 0)
    np.testing.assert_array_equal(found.log_variance, 0)


# ---------------------------------------------------------------------- prior


def test_the_divergence_of_normal_distributions_is_that_of_torch():
    q, p = some_normal(5, 3), some_normal(5, 3)
    np.testing.assert_allclose(divergence(q, p), kl_divergence(as_torch(q), as_torch(p)), rtol=1e-4, atol=1e-5)


def test_the_mixture_starts_as_a_standard_normal_distribution():
    q = some_normal(5, 3)
    expected = kl_divergence(as_torch(q), TorchNormal(0, 1)).sum(dim=1)
    np.testing.assert_allclose(Mixture(4, 3).divergence(q).detach(), expected, rtol=1e-4)


def test_the_divergence_from_far_components_is_that_of_many_draws():
    torch.manual_seed(0)
    prior, same = some_mixture(mean=10.0)
    q = Normal(torch.tensor([[20.2, -9.5]]), torch.tensor([[-1.0, -2.0]]))
    z = as_torch(q).sample((200_000,))[:, 0]
    expected = (as_torch(q).log_prob(z).sum(dim=1) - same.log_prob(z)).mean()
    assert prior.divergence(q).item() == pytest.approx(expected.item(), rel=0.02)


def test_the_divergence_from_close_components_is_never_below_that_of_many_draws():
    torch.manual_seed(0)
    prior, same = some_mixture()
    q = some_normal(6, 2)
    z = as_torch(q).sample((50_000,))
    drawn = (as_torch(q).log_prob(z).sum(dim=2) - same.log_prob(z)).mean(dim=0)
    found = prior.divergence(q).detach()
    assert (found >= 0).all()
    assert (found > drawn - 0.02).all()


def test_other_responsibilities_make_the_divergence_larger():
    torch.manual_seed(0)
    prior, same = some_mixture()
    q = some_normal(1, 2)
    each = kl_divergence(Independent(as_torch(q), 1), same.component_distribution)
    gamma = torch.rand(1000, 3).pow(3)
    gamma = gamma / gamma.sum(dim=1, keepdim=True)
    bounds = (gamma * each).sum(dim=1) + (gamma * (gamma / same.mixture_distribution.probs).log()).sum(dim=1)
    found = prior.divergence(q).item()
    assert bounds.min() >= found - 1e-5
    assert bounds.min().item() == pytest.approx(found, abs=0.02)


def test_far_places_have_a_finite_divergence():
    prior, _ = some_mixture()
    assert prior.divergence(Normal(torch.full((1, 2), 1e3), torch.zeros(1, 2))).isfinite().all()


def test_the_mixture_starts_at_the_moments_of_what_is_in_each_component():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(60, 2)).astype(np.float32), np.full((60, 2), 0.5, dtype=np.float32)
    proba = np.eye(2, dtype=np.float32)[[0] * 20 + [1] * 40]
    prior = Mixture(2, 2)
    prior.start_at(mean, variance, proba)
    np.testing.assert_allclose(prior.logits.softmax(dim=0).detach(), [1 / 3, 2 / 3], rtol=1e-5)
    np.testing.assert_allclose(prior.mean.detach(), [mean[:20].mean(axis=0), mean[20:].mean(axis=0)], rtol=1e-4)
    np.testing.assert_allclose(prior.log_variance[1].exp().detach(), mean[20:].var(axis=0) + 0.5, rtol=1e-4)


# ---------------------------------------------------------------------- bound


def test_the_bound_is_that_of_scipy_and_torch():
    net, x, y = some_net()
    with torch.no_grad():
        net.prior.mean.normal_()
        found = net.bound(x, y, {"source": 4.0, "target": 1.0}, 0.3, 0.5).item()
        q = net.posterior(x, y)
        expected = net.prior.divergence(q).mean().item()
        for role, seen, h in zip(SIDES, (x, y), net.decoder(q.mean).chunk(2, dim=1), strict=True):
            (middle, spread), of_library = SIDES[role]["library"], net.libraries[role](seen.counts.log1p())
            log_library = TorchNormal(
                middle + spread * of_library.mean, spread * (of_library.log_variance / 2).exp()
            )  # in counts, against the prior of the same modality
            expected += kl_divergence(log_library, TorchNormal(middle, spread)).sum(dim=1).mean().item()
            mean, theta, _ = net.heads[role](net.branches[role](h), log_library.mean[:, 0].exp())
            mean, theta = mean.numpy().astype(float), theta.numpy().astype(float)
            explained = nbinom.logpmf(seen.counts.numpy(), theta, theta / (theta + mean)).sum(axis=1).mean()
            expected -= {"source": 4.0, "target": 1.0}[role] * explained
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_library_of_each_modality_has_its_own_prior(whole):
    model, pair = fitted(whole, **BRIEF)
    for role, cells in (("source", pair.source), ("target", pair.target)):
        log = np.log(cells.counts.sum(axis=1).A1)
        np.testing.assert_allclose(model.sides_[role]["library"], [log.mean(), log.std()], rtol=0.1)
    assert model.net_.usual["source"] != model.net_.usual["target"]


def test_libraries_at_their_priors_cost_nothing():
    net, x, y = some_net()
    with torch.no_grad():
        for each in net.libraries.values():
            each[-1].weight.zero_()
            each[-1].bias.zero_()
        for role, seen in zip(SIDES, (x, y), strict=True):
            assert divergence(net.libraries[role](seen.counts.log1p()), STANDARD).abs().max() == 0
            h = torch.randn(9, 5)
            size = torch.full((9,), SIDES[role]["library"][0]).exp()
            alone = SIDES[role]["n_vars"] * net.heads[role].loss(net.branches[role](h), seen.counts, size)
            assert net.unexplained(role, h, seen, 1.0).item() == pytest.approx(alone.item(), rel=1e-5)


def test_means_sum_to_the_library():
    net, _, _ = some_net()
    size = torch.tensor([3.0, 200.0, 1e6])
    np.testing.assert_allclose(net.heads["source"](torch.randn(3, 5), size).mean.sum(dim=1).detach(), size, rtol=1e-4)


def test_a_modality_that_no_cell_has_adds_nothing_to_the_bound():
    net, x, y = some_net()
    nowhere = y._replace(there=torch.zeros(9, dtype=torch.bool))
    other = nowhere._replace(counts=y.counts + 5, values=y.values + 1)
    weights = {"source": 1.0, "target": 1.0}
    assert net.bound(x, nowhere, weights, 1.0, 0.0).item() == net.bound(x, other, weights, 1.0, 0.0).item()


def test_half_of_the_hidden_share_lacks_each_modality():
    torch.manual_seed(0)
    _, x, y = some_net()
    x, y = (each._replace(there=torch.ones(10_000, dtype=torch.bool)) for each in (x, y))
    found = [each.there for each in partly_hidden(x, y, 0.4)]
    assert [round((~each).float().mean().item(), 1) for each in found] == [0.2, 0.2]
    assert (found[0] | found[1]).all()
    assert all(each.there.all() for each in partly_hidden(x, y, 0.0))


def test_cells_that_have_one_modality_are_not_hidden():
    _, x, y = some_net()
    lone = x._replace(there=torch.ones(1000, dtype=torch.bool)), y._replace(there=torch.zeros(1000, dtype=torch.bool))
    assert partly_hidden(*lone, 1.0)[0].there.all()


# ---------------------------------------------------------------------- whole runs


def test_types_are_apart_in_the_space(whole):
    mdata = copied(whole)
    embedded(mdata)
    score = sd.metrics.score(mdata, "joint_embed", key="here", truth="cell_type", metrics=["kmeans_ari"])
    assert score["kmeans_ari"].item() > 0.9


@pytest.mark.parametrize("lacks", ["rna", "prot"])
def test_a_cell_of_one_modality_lies_near_its_full_place(whole, lacks):
    model, pair = fitted(whole)
    some = lacking(whole, **{lacks: slice(20)})
    with model.session():
        full = model.predict(pair=pair)["embedding"]
    model.preps_ = {"source": pair.source.prep, "target": pair.target.prep}
    model.modalities_ = ["rna", "prot"]
    alone = read_roles(JOINT_EMBED, model, some, some)["pair"]
    with model.session():
        z = model.predict(pair=alone)["embedding"]
    np.testing.assert_allclose(z[20:], full[20:], atol=1e-5)
    off = ((z[:20, None] - full) ** 2).sum(axis=2)
    rank = (off < np.diag(off[:, :20])[:, None]).mean(axis=1)
    assert np.median(rank) < 0.15
    assert not np.array_equal(z[:20], full[:20])


def test_the_place_of_a_lone_cell_is_its_expert_times_the_prior(whole):
    some = lacking(whole, prot=slice(5))
    model, pair = fitted(some, **BRIEF)
    with model.session(), torch.no_grad():
        seen = model.reader(pair.source, "source")(np.arange(5))
        expert = model.net_.experts["source"](seen.values)
        z = model.predict(pair=pair)["embedding"][:5]
    np.testing.assert_allclose(z, expert.mean / (1 + expert.log_variance.exp()), rtol=1e-4, atol=1e-6)
    assert model.notes_ == {"n_both": 235, "n_one": 5}
    assert not hasattr(model, "lone_")


def test_cells_of_one_modality_teach_and_never_end_the_training(whole, monkeypatch):
    seen = []
    run = ScMVAE.run
    monkeypatch.setattr(
        ScMVAE, "run", lambda self, step, batches, valid, **how: seen.append((batches.rows, valid))
        or run(self, step, batches, valid, **how),
    )  # fmt: skip
    fitted(lacking(whole, prot=slice(30), rna=slice(30, 50)), **BRIEF)
    assert len(seen) == 2
    for rows, valid in seen:
        assert (valid >= 0).all()
        assert ((rows < 0).sum(axis=0) == [20, 30]).all()
        assert not {tuple(each) for each in rows} & {tuple(each) for each in valid}


def test_others_stand_in_for_cells_that_lack_a_modality(whole):
    model, pair = fitted(whole, **BRIEF)
    read = model.reader(pair.source, "source")
    seen, full = read(np.array([4, -1, 7, -1, -1])), read(np.array([4, 4, 7, 7, 4]))
    np.testing.assert_array_equal(seen.there, [True, False, True, False, False])
    np.testing.assert_array_equal(seen.counts, full.counts)
    np.testing.assert_array_equal(seen.values, full.values)
    assert not read(np.array([-1, -1])).there.any()


def test_either_modality_may_be_the_source(whole):
    z = embedded(copied(whole), source="prot", target="rna", **BRIEF)
    assert z.shape == (240, 6)
    assert np.isfinite(z).all()


@pytest.mark.parametrize(("source", "target"), [("rna", "atac"), ("atac", "prot")])
@pytest.mark.parametrize("encode", ["scores", "features"])
def test_peaks_may_take_either_role(whole, source, target, encode):
    peaks = whole["rna"].copy()
    peaks.var_names = [f"chr1-{i}00-{i}50" for i in range(80)]
    peaks.X = (peaks.X > 1).astype(np.int32)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({**{name: each.copy() for name, each in whole.mod.items()}, "atac": peaks})
    z = embedded(mdata, source=source, target=target, encode=encode, **BRIEF)
    assert np.isfinite(z).all()


@pytest.mark.parametrize("encode", ["scores", "features"])
def test_features_without_a_count_and_a_cell_of_many_are_no_problem(whole, encode):
    mdata = copied(whole)
    for name in ("rna", "prot"):
        counts = mdata[name].X.toarray()
        counts[:, :3] = 0
        counts[0, 3:] = 10_000 * (counts[0, 3:] + 1)
        mdata[name].X = counts
    z = embedded(mdata, encode=encode, likelihood="zinb")
    assert np.isfinite(z).all()


def test_twelve_cells_are_enough_to_run(whole):
    z = embedded(copied(whole[:12]), **{**BRIEF, "n_components": 30})
    assert z.shape == (12, 6)


def test_the_decoder_is_told_the_batch_and_the_encoders_are_not(whole):
    mdata = copied(whole)
    mdata.obs["donor"] = np.resize(list("ab"), 240)
    model = sd.fit("joint_embed", mdata, method="scmvae", batch_key="donor", progress=False, **BRIEF)
    assert model.net_.decoder.n_covariates == 2
    sd.tl.joint_embed(mdata, model, key_added="one", batch_key="donor")
    mdata.obs["donor"] = "another"
    sd.tl.joint_embed(mdata, model, key_added="other", batch_key="donor")
    np.testing.assert_array_equal(mdata.obsm["X_one"], mdata.obsm["X_other"])


def test_the_prior_grows_over_the_epochs_of_both_stages(whole, monkeypatch):
    used, bound = [], Net.bound
    monkeypatch.setattr(
        Net, "bound", lambda self, x, y, weights, prior, alone: (used.append(prior) if self.training else None)
        or bound(self, x, y, weights, prior, alone),
    )  # fmt: skip
    fitted(whole, pretrain_epochs=3, epochs=3, warm_up=4, batch_size=300, pretrain_batch_size=300)
    assert used == [0, 0.25, 0.5, 0.75, 1, 1]


def test_the_mixture_stays_one_normal_distribution_until_it_starts(whole, monkeypatch):
    before, start_at = [], Mixture.start_at
    monkeypatch.setattr(
        Mixture, "start_at", lambda self, *given: before.append(self.mean.abs().max().item()) or start_at(self, *given)
    )
    model, _ = fitted(whole, **BRIEF)
    assert before == [0]
    assert model.net_.prior.mean.abs().max() > 0


@pytest.mark.parametrize("preset", ["paper", "dance"])
def test_presets_run(whole, preset):
    knobs = {"epochs": 1, "hidden": [16, 8], "preset": preset}
    sd.tl.joint_embed(mdata := copied(whole), "scmvae", progress=False, **knobs)
    assert mdata.obsm["X_scmvae"].shape == (240, 22)


@pytest.mark.parametrize(
    "knobs",
    [
        {"n_components": 0},
        {"rna_weight": -1.0},
        {"alone": 1.5},
        {"hidden": []},
        {"dropout": 1.0},
        {"n_latent": 0},
        {"warm_up": -1},
    ],
)
def test_numbers_out_of_range_are_refused(whole, knobs):
    with pytest.raises(InputError, match=next(iter(knobs))):
        embedded(copied(whole), **knobs)
