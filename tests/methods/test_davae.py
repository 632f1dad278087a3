"""DAVAE, for batches and across omics, beyond the common checks of every method."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.stats
import torch

import scdance as sd
from scdance.nn import BatchVAE, Posterior

QUICK = {"hidden": (32,), "n_latent": 4, "hide": 0.2, "steps": 250, "batch_size": 64, "lr": 0.01, "progress": False}


def batches_of(**numbers) -> ad.AnnData:
    return sd.datasets.toy_clusters(**({"n_obs": 300, "n_vars": 150, "k": 3, "n_de": 25, "batches": 2} | numbers))


def space(adata: ad.AnnData, **knobs) -> np.ndarray:
    sd.tl.integrate(adata, "davae", batch_key="batch", **{**QUICK, **knobs})
    return adata.obsm["X_davae"]


def score(adata: ad.AnnData) -> dict[str, float]:
    """How well types are found, and how far batches can be told apart."""
    z = adata.obsm["X_davae"]
    return {
        "ari": sd.metrics.subsampled_ari(adata.obs["cell_type"], z),
        "a_distance": sd.metrics.a_distance(z, adata.obs["batch"]),
    }


@pytest.fixture(scope="module")
def shifted() -> ad.AnnData:
    """Batches that change genes as much as types do, integrated, with expression as of the first."""
    adata = batches_of(batch_sd=0.7)
    space(adata, corrected=True, common="batch1")
    return adata


# ---------------------------------------------------------------------- the net


def small_net(**knobs) -> BatchVAE:
    torch.manual_seed(0)
    return BatchVAE(12, 2, **{"hidden": [8], "n_latent": 3, "dropout": 0.0} | knobs)


def some_cells() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(40, 12), torch.arange(40) % 2


def test_the_divergence_is_that_of_a_simulation():
    mean, log_variance = torch.tensor([[0.5, -1.0, 0.0]]), torch.tensor([[0.2, -1.0, 0.0]])
    q = Posterior(mean, log_variance)
    own = scipy.stats.norm(mean.numpy(), (log_variance / 2).exp().numpy())
    z = own.rvs((200_000, 3), random_state=0)
    drawn = (own.logpdf(z) - scipy.stats.norm.logpdf(z)).sum(axis=1).mean()
    assert q.divergence().item() == pytest.approx(drawn, rel=0.01)
    assert Posterior(torch.zeros(1, 3), torch.zeros(1, 3)).divergence().item() == 0


def test_the_variance_is_the_mean_squared_error_of_an_entry():
    net, (x, batch) = small_net(), some_cells()
    torch.manual_seed(2)
    z = net.encode(x, batch).draw()
    expected = np.mean((x - net.decode(z, batch)).detach().numpy() ** 2)
    torch.manual_seed(2)
    net.loss(x, batch)
    assert net.variance.item() == pytest.approx(expected, rel=1e-5)
    assert not net.variance.requires_grad


def test_the_loss_is_the_formula_for_each_gene():
    net, (x, batch) = small_net(), some_cells()
    net.variance.fill_(0.3)
    net.eval()
    torch.manual_seed(2)
    q = net.encode(x, batch)
    f = net.decode(q.draw(), batch).detach().numpy()
    likelihood = scipy.stats.norm.logpdf(x.numpy(), f, np.sqrt(0.3)).sum(axis=1)
    expected = (q.divergence().detach().numpy() - likelihood).mean() / 12
    torch.manual_seed(2)
    assert net.loss(x, batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_encoder_is_pushed_against_the_adversary():
    """The reversed part of the gradient is λ times that of the cross-entropy, with the other sign."""
    x, batch = some_cells()
    slopes = {}
    for weight in (1e-9, 2.0):
        net = small_net(adversary=weight).eval()
        net.variance.fill_(0.3)
        torch.manual_seed(2)
        net.loss(x, batch).backward()
        slopes[weight] = net.posterior.weight.grad
    net = small_net(adversary=2.0).eval()
    torch.manual_seed(2)
    torch.nn.functional.cross_entropy(net.adversary(net.encode(x, batch).draw()), batch).backward()
    torch.testing.assert_close(slopes[2.0] - slopes[1e-9], -2 * net.posterior.weight.grad, rtol=1e-3, atol=1e-6)


def test_offsets_alone_give_the_mean_of_each_batch():
    net, mean = small_net(), torch.rand(2, 12) + 0.05
    net.start_at(mean)
    torch.nn.init.zeros_(net.out.weight)
    torch.testing.assert_close(net.decode(torch.randn(2, 3), torch.tensor([0, 1])), mean)


def test_groups_of_batches_start_with_the_same_offsets_in_the_mean():
    net, mean = BatchVAE(12, 3, hidden=[8], n_latent=3, condition="offset_decoder"), torch.rand(3, 12) + 0.05
    net.start_at(mean)
    own = net.offset.detach().clone()
    net.start_at(mean, torch.tensor([0, 1, 0]))
    first, second = net.offset[[0, 2]], net.offset[1]
    torch.testing.assert_close(first.mean(dim=0), second)
    torch.testing.assert_close(first[0] - first[1], own[0] - own[2])  # within a group all is as before
    # the decoder is told of the batch within its group only, so it cannot tell the first of two groups apart
    net.eval()
    z = torch.randn(4, 3)
    with torch.no_grad():
        net.positive = False
        seen = [net.decode(z, torch.full((4,), code)) - net.offset[code] for code in range(3)]
    torch.testing.assert_close(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2])


@pytest.mark.parametrize("condition", ["offset", "decoder", "offset_decoder", "both"])
def test_an_unseen_batch_is_none_of_those(condition):
    net = small_net(condition=condition).eval()
    torch.nn.init.normal_(net.offset)
    z = torch.randn(5, 3)
    known = [net.decode(z, torch.full((5,), code)) for code in (0, 1)]
    new = net.decode(z, torch.full((5,), -1))
    torch.testing.assert_close(new, net.decode(z))
    assert not any(torch.allclose(new, each) for each in known)


# ---------------------------------------------------------------------- integration


def test_types_are_found_in_batches_that_change_genes_as_much(shifted):
    found = score(shifted)
    assert found["ari"] > 0.95
    assert found["a_distance"] < 0.4


def test_a_space_that_nothing_keeps_from_it_holds_the_batch():
    adata = batches_of(batch_sd=0.7)
    space(adata, condition="none", adversary=0)
    assert score(adata)["a_distance"] > 1.8


def test_a_decoder_that_is_told_the_batch_spares_the_space():
    adata = batches_of(batch_sd=0.7)
    space(adata, condition="decoder", adversary=0, hide=0)
    assert score(adata)["a_distance"] < 0.8


def test_types_that_no_two_batches_share_stay_apart():
    adata = batches_of(n_obs=600, n_vars=300, n_de=80, k=2, apart=True)
    with pytest.warns(UserWarning, match="batch1; batch2"):
        space(adata, hide=0.5)
    assert score(adata)["ari"] > 0.9
    with warnings.catch_warnings(action="error"):
        space(adata, shared_types=False, hide=0.5)
    assert score(adata)["ari"] > 0.9


def test_who_says_that_types_are_shared_has_them_merged():
    adata = batches_of(n_obs=600, n_vars=300, k=2, apart=True)
    space(adata, shared_types=True)
    assert score(adata)["a_distance"] < 1


def test_expression_as_of_a_common_batch(shifted):
    corrected, x = shifted.layers["davae"], shifted.X.toarray()
    log = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    first = (shifted.obs["batch"] == "batch1").to_numpy()
    modelled = shifted.var["davae_corrected"].to_numpy()
    assert corrected.min() >= 0

    def apart(values: np.ndarray) -> float:
        means = [values[rows][:, modelled].mean(axis=0) for rows in (first, ~first)]
        return float(np.abs(means[0] - means[1]).mean())

    assert apart(corrected) < 0.3 * apart(log)
    np.testing.assert_allclose(corrected[first].mean(axis=0), log[first].mean(axis=0), atol=0.35)


def test_one_batch_leaves_a_plain_autoencoder():
    adata = batches_of(batches=1)
    adata.obs["batch"] = "only"
    with pytest.warns(UserWarning, match="one batch"):
        model = sd.fit("integrate", adata, method="davae", batch_key="batch", adversary=1.0, **QUICK)
    assert model.net_.adversary is None
    sd.tl.integrate(adata, model, batch_key="batch")
    assert sd.metrics.subsampled_ari(adata.obs["cell_type"], adata.obsm["X_davae"]) > 0.95


def test_a_reference_alone_is_restored_and_the_others_do_not_collapse():
    adata = batches_of()
    z = space(adata, reconstruct="reference", common="batch1")
    first = (adata.obs["batch"] == "batch1").to_numpy()
    others = adata[~first]
    assert z[~first].std(axis=0).sum() > 0.5 * z[first].std(axis=0).sum()
    assert sd.metrics.subsampled_ari(others.obs["cell_type"], others.obsm["X_davae"]) > 0.9


def test_cells_of_a_new_batch_are_placed_as_they_are():
    adata = batches_of()
    model = sd.fit("integrate", adata, method="davae", batch_key="batch", **QUICK)
    new, named = adata[:50].copy(), adata[:50].copy()
    new.obs["batch"] = "new"
    sd.tl.integrate(new, model, batch_key="batch")
    sd.tl.integrate(named, model, batch_key="batch")
    np.testing.assert_array_equal(new.obsm["X_davae"], named.obsm["X_davae"])


def test_a_common_batch_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="batch1, batch2"):
        space(batches_of(), common="batch7")


# ---------------------------------------------------------------------- label transfer


def layers_of(missing: tuple[str, ...] = ()) -> tuple[ad.AnnData, ad.AnnData]:
    """Cells of one batch without some types, and those of another of which a third are labelled."""
    both = batches_of(n_obs=500, k=4, batch_sd=0.7)
    first = (both.obs["batch"] == "batch1").to_numpy()
    cells, ref = both[~first & ~both.obs["cell_type"].isin(missing).to_numpy()].copy(), both[first].copy()
    ref.obs["known"] = ref.obs["cell_type"].where(np.arange(ref.n_obs) % 3 == 0)
    return cells, ref


@pytest.mark.parametrize("unit", ["scaled", "log"])
def test_types_are_transferred_though_one_is_missing(unit):
    cells, ref = layers_of(missing=("type1",))
    sd.tl.transfer_labels(cells, ref, "davae", labels_key="known", unit=unit, write_ref=True, **QUICK)
    right = cells.obs["davae"].astype(str) == cells.obs["cell_type"].astype(str)
    assert right.mean() > 0.9
    both = np.concatenate([cells.obsm["X_davae"], ref.obsm["X_davae"]])
    truth = np.concatenate([cells.obs["cell_type"].astype(str), ref.obs["cell_type"].astype(str)])
    assert sd.metrics.subsampled_ari(truth, both) > 0.8
