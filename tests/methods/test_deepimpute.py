import anndata as ad
import numpy as np
import pytest
import torch

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import TASKS
from scdance.methods.impute import deepimpute
from scdance.methods.impute._subnets import Runs
from scdance.pp import canonical, mask
from scdance.train import Batches, Train

KNOBS = {"n_targets": 16, "n_predictors": 3, "hidden": 32, "dropout": 0.1, "lr": 1e-2, "batch_size": 64}
SHOWN = (1.0, 1.0)
N_GENES, N_MODULES = 48, 4


def modules(n_obs=400, theta=8.0, seed=0):
    """Counts of modules of genes that go up and down together, (n_obs, 48), and their expected values."""
    rng = np.random.default_rng(seed)
    activity = rng.normal(0, 1.0, (n_obs, N_MODULES))
    depth = np.exp(rng.normal(0, 0.2, (n_obs, 1)))
    mean = depth * np.exp(rng.normal(1.5, 0.4, N_GENES) + activity[:, np.arange(N_GENES) % N_MODULES])
    counts = rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape))
    counts[:, 0] += counts.sum(axis=1) == 0
    return canonical(counts), mean


def fitted(counts, **knobs):
    adata = ad.AnnData(counts)
    model = make("impute", "deepimpute", KNOBS | knobs, device="cpu")
    roles = read_roles(TASKS["impute"], model, adata, adata)
    result, _ = solve(model, progress=False, **roles)
    return model, roles["cells"], result


def imputed(counts, **knobs):
    adata = ad.AnnData(counts)
    sd.tl.impute(adata, method="deepimpute", progress=False, device="cpu", **KNOBS | knobs)
    return adata.layers["deepimpute"]


@pytest.fixture(scope="module")
def data():
    return modules()


@pytest.fixture(scope="module")
def trained(data):
    return fitted(data[0], output="counts", epochs=20)


# Which genes predict which


def test_subsets_hold_each_gene_once_and_at_most_so_many(trained):
    model = trained[0]
    np.testing.assert_array_equal(model.targets_, np.arange(N_GENES))
    sizes = np.bincount(model.subset_)
    assert len(sizes) == 3
    assert sizes.max() <= 16


def test_predictors_lie_outside_their_subset_and_correlate_most_with_one_of_its_genes(trained):
    model, cells, _ = trained
    correlation = np.abs(np.corrcoef(cells.x.toarray().astype(np.float64), rowvar=False))
    for i, predictors in enumerate(model.predictors_):
        own = model.targets_[model.subset_ == i]
        others = np.setdiff1d(np.arange(N_GENES), own)
        best = [others[np.argsort(-correlation[gene, others])[:3]] for gene in own]
        np.testing.assert_array_equal(predictors, np.unique(best))


def test_two_subsets_at_least_so_that_there_are_genes_outside(data):
    model, *_ = fitted(data[0], n_targets=512, epochs=0)
    assert np.bincount(model.subset_).tolist() == [N_GENES // 2] * 2


def test_genes_that_vary_little_only_predict(data):
    counts = data[0].toarray().astype(np.float64)
    ratio = counts.var(axis=0) / (1 + counts.mean(axis=0))
    border = float(np.median(ratio))
    model, _, result = fitted(data[0], min_vmr=border, epochs=0)
    np.testing.assert_array_equal(model.targets_, np.flatnonzero(ratio > border))
    np.testing.assert_array_equal(result["modelled"], ratio > border)
    assert np.isin(np.concatenate(model.predictors_), np.flatnonzero(ratio <= border)).any()
    with pytest.raises(InputError, match="min_vmr=1e"):
        fitted(data[0], min_vmr=1e9, epochs=0)


def test_some_cells_tell_which_genes_correlate_where_there_are_many(data, monkeypatch):
    monkeypatch.setattr(deepimpute, "CORRELATED", 50)
    seen = []
    monkeypatch.setattr(deepimpute, "_most_correlated", lambda x, *_: (seen.append(x.shape[0]), np.arange(2))[1])
    fitted(data[0], epochs=0)
    assert seen == [50] * 3


# The networks


def test_each_column_is_that_of_its_gene():
    """A copy of a gene in another subset tells it, so a prediction in another column would not fit it."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(np.exp(rng.normal(1, 1, (400, N_GENES))))  # no gene tells another but its copy
    counts = np.concatenate([counts, counts], axis=1)
    layer = imputed(
        counts, n_targets=10, n_predictors=1, output="counts", epochs=60, hidden=64, dropout=0.0, shown=SHOWN
    )
    model, *_ = fitted(counts, n_targets=10, n_predictors=1, epochs=0)
    apart = np.flatnonzero(model.subset_[:N_GENES] != model.subset_[N_GENES:])
    assert len(apart) > 30
    logs, truth = np.log1p(layer), np.log1p(counts)
    found = [np.corrcoef(logs[:, gene], truth[:, gene])[0, 1] for gene in apart]
    assert np.median(found) > 0.95
    assert min(found) > 0.8


def test_networks_side_by_side_compute_what_each_would_alone(trained):
    model, cells, _ = trained
    net, x = model.net_, torch.from_numpy(cells.dense(np.arange(10)))
    with torch.no_grad():
        together = net(x)
        for i, predictors in enumerate(model.predictors_):
            h = (x[:, predictors] @ net.weight_in[i, : len(predictors)] + net.bias_in[i]).relu()
            alone = h @ net.weight_out[i] + net.bias_out[i]
            own = np.flatnonzero(model.subset_ == i)
            torch.testing.assert_close(together[:, own], alone[:, : len(own)])
            torch.testing.assert_close(net(x, torch.tensor([i])), alone[:, : len(own)])


def test_the_mean_starts_at_that_of_each_gene(data):
    _, cells, result = fitted(data[0], output="counts", epochs=0, patience=None)
    depth, counts = cells.depth, data[0].toarray()
    expected = np.outer(depth, counts.sum(axis=0) / depth.sum())
    np.testing.assert_allclose(result["expression"], expected, rtol=1e-4)


def test_a_zero_has_no_part_in_the_weighted_loss(data):
    model, cells, _ = fitted(data[0], loss="weighted", normalize=False, policy="restore", epochs=0)
    batch = Batches(cells, 50, counts=True).take(np.arange(50))
    out = torch.zeros(50, N_GENES, requires_grad=True)
    loss = model._compare(out, batch, model.net_.genes(), model._scale(cells))
    y = np.log1p(data[0].toarray()[:50])
    assert loss.item() == pytest.approx((y * (y - np.log(2)) ** 2).mean(), rel=1e-5)
    loss.backward()
    assert (out.grad[torch.from_numpy(y == 0)] == 0).all()
    assert (out.grad[torch.from_numpy(y > 1)] != 0).all()


def test_each_step_starts_with_fresh_gradients(data):
    """The weights after two steps are those of two steps down the slope, written out here."""
    model, cells, _ = fitted(
        data[0], epochs=2, patience=None, batch_size=400, dropout=0.0, shown=SHOWN, optimizer="sgd", lr=0.05
    )
    other, *_ = fitted(data[0], epochs=0, patience=None, dropout=0.0)
    batch, net = Batches(cells, 400, counts=True).take(np.arange(400)), other.net_
    for _ in range(2):
        loss = other._loss(batch, other._scale(cells), None)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient
    for name, value in net.state_dict().items():
        torch.testing.assert_close(model.net_.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_networks_are_shown_fewer_molecules_at_the_same_scale(data):
    model, cells, _ = fitted(data[0], shown=(0.3, 0.3), epochs=0)
    batch, rng = Batches(cells, 400, counts=True).take(np.arange(400)), np.random.default_rng(0)
    seen = np.mean([np.expm1(model._redrawn(cells, batch, rng).x.numpy()) for _ in range(30)], axis=0)
    whole = np.expm1(batch.x.numpy())
    assert np.abs(seen.mean(axis=0) / whole.mean(axis=0) - 1).max() < 0.05
    few = model._redrawn(cells, batch, rng)
    assert few.counts is batch.counts
    size = (cells.depth / model.median_depth_)[:, None]
    molecules = np.expm1(few.x.numpy()) * 0.3 * size
    np.testing.assert_allclose(molecules, molecules.round(), atol=1e-3 * molecules.max())
    assert (molecules.round() <= data[0].toarray()).all()


# When they stop


class _Flat(torch.nn.Module):
    n_subsets = 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, 2))


def test_each_network_stops_by_itself_and_keeps_its_best_weights():
    losses = torch.tensor([[3.0, 3.0, 3.0], [2.0, 4.0, 2.5], [2.5, 5.0, 2.0], [2.6, 0.0, 1.0], [9.0, 9.0, 0.5]])
    net, asked = _Flat(), []

    def judged(going):
        asked.append(going.tolist())
        return losses[len(asked) - 1, going]

    runs = Runs(net, Train(patience=2), judged)
    for epoch in range(1, 5):
        with torch.no_grad():
            net.weight.fill_(epoch)
        assert runs.judge(epoch) is None
    with torch.no_grad():
        net.weight.fill_(5)
    runs.finish(5)
    # the second never gains after its first epoch and is gone after two more; the first gains once and goes later
    assert asked == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 2], [2]]
    np.testing.assert_array_equal(net.weight.detach().numpy(), [[2, 2], [1, 1], [5, 5]])
    np.testing.assert_allclose(runs.memory["history"], [3, 8.5 / 3, 9.5 / 3, (2.6 + 3 + 1) / 3, (2 + 3 + 0.5) / 3])


def test_training_ends_when_no_network_gains(data):
    model, *_ = fitted(data[0][:120], epochs=300, lr=0.05, patience=2)
    assert "no better validation loss of any network in 2 epochs" in model.stopped_
    assert model.epochs_ < 300


def test_no_cell_is_held_out_without_patience(data):
    model, *_ = fitted(data[0], epochs=1, patience=None)
    assert "training_valid_loss" not in model.history_
    model, *_ = fitted(data[0], epochs=2, patience=5)
    assert len(model.history_["training_valid_loss"]) == 2


# What comes out


def test_hidden_counts_are_found_again():
    counts, _ = modules(theta=50.0)
    kept = mask(counts, "uniform", 0.1, np.random.default_rng(0))
    layer = imputed(kept, output="log1p", epochs=60)
    mean = ad.AnnData(kept)
    sd.tl.impute(mean, method="gene_mean", output="log1p")
    error = sd.metrics.rmse_nonzero(counts, kept, layer)
    assert error < 0.7 * sd.metrics.rmse_nonzero(counts, kept, mean.layers["gene_mean"])


def test_the_rates_are_near_those_behind_the_counts(data, trained):
    rates, (counts, mean) = trained[2]["expression"], data
    share = np.outer(np.asarray(counts.sum(axis=1)), np.asarray(counts.sum(axis=0)) / counts.sum())
    error, floor = (np.mean((np.log(each) - np.log(mean)) ** 2) for each in (rates, share))
    assert error < 0.3 * floor


def test_restoring_leaves_counts_as_they_were(data):
    counts = data[0].toarray()
    for knobs in ({}, {"preset": "paper", "min_vmr": None, "hidden": 16}):
        layer = imputed(counts, **{"policy": "restore", "output": "counts", "epochs": 2} | knobs)
        np.testing.assert_array_equal(layer[counts > 0], counts[counts > 0])
        assert (layer[counts == 0] > 0).all()


def test_weighted_networks_predict_entries_that_are_not_zero(data):
    """Half of the entries are zeros that tell nothing; the value of the others is met, not their average with 0."""
    rng = np.random.default_rng(1)
    counts = canonical(data[0].multiply(rng.random(data[0].shape) < 0.5))
    knobs = {"loss": "weighted", "normalize": False, "epochs": 40}
    logs = imputed(counts, output="log1p_nonzero", **knobs)
    seen, lost = counts.toarray() > 0, (counts.toarray() == 0) & (data[0].toarray() > 0)
    truth = np.log1p(data[0].toarray())
    assert abs(np.mean((logs - truth)[seen])) < 0.2
    assert abs(np.mean((logs - truth)[lost])) < 0.25
    filled = imputed(counts, output="log1p", policy="restore", **knobs)
    np.testing.assert_allclose(filled[~seen], logs[~seen], rtol=1e-5)
    np.testing.assert_allclose(
        imputed(counts, output="counts", policy="max", **knobs)[~seen], np.expm1(logs[~seen]), rtol=1e-4
    )


@pytest.mark.parametrize("wrong", [{}, {"policy": "posterior"}, {"policy": "restore", "uncertainty": True}])
def test_weighted_networks_refuse_what_they_do_not_know(data, wrong):
    with pytest.raises(InputError, match="loss='nb'"):
        imputed(data[0], loss="weighted", **wrong)


def test_new_cells_are_imputed_by_the_names_of_their_genes_and_the_depth_of_training():
    adata = ad.AnnData(modules(n_obs=460)[0])
    adata.var_names = [f"gene {i}" for i in range(N_GENES)]
    knobs = {**KNOBS, "epochs": 10, "output": "counts", "device": "cpu", "progress": False}
    model = sd.fit("impute", adata[:400].copy(), method="deepimpute", **knobs)
    new = adata[400:].copy()
    order = np.random.default_rng(0).permutation(N_GENES)
    turned = new[:, order].copy()
    for each in (new, turned):
        sd.tl.impute(each, method=model, progress=False)
    np.testing.assert_allclose(turned.layers["deepimpute"], new.layers["deepimpute"][:, order], rtol=1e-4)
    one = new[7].copy()
    sd.tl.impute(one, method=model, progress=False)
    np.testing.assert_allclose(one.layers["deepimpute"][0], new.layers["deepimpute"][7], rtol=1e-4)


def test_no_cell_is_expected_to_have_more_than_was_ever_seen(trained):
    model, cells, _ = trained
    counts = cells.counts.toarray()
    largest = (counts / (cells.depth / np.median(cells.depth))[:, None]).max(axis=0)
    np.testing.assert_allclose(model.largest_, largest, rtol=1e-5)
    with torch.no_grad():
        before = model.net_.bias_out.clone()
        model.net_.bias_out += 9
        rates = model.rates(cells)(slice(0, 5))
        model.net_.bias_out.copy_(before)
    np.testing.assert_allclose(rates, largest * (cells.depth[:5] / np.median(cells.depth))[:, None], rtol=1e-4)


def test_the_dispersion_follows_the_data(data):
    few, many = (fitted(modules(theta=theta)[0], output="log1p", epochs=25)[0] for theta in (2.0, 50.0))
    assert np.median(few.theta_) < 5 < np.median(many.theta_)


def test_presets_hold_what_was_published():
    paper = make("impute", "deepimpute", {}, preset="paper")
    told = ("loss", "policy", "min_vmr", "n_predictors", "hidden", "dropout")
    assert [getattr(paper, name) for name in told] == ["weighted", "restore", 0.5, 5, 256, 0.2]
    how = paper.training
    assert (how.lr, how.batch_size, how.epochs, how.patience) == (1e-4, 64, 500, 5)
    dance = make("impute", "deepimpute", {}, preset="dance")
    assert (dance.training.lr, dance.training.patience, dance.dropout, dance.min_vmr) == (1e-5, 20, 0.1, None)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"n_targets": 0}, "n_targets=0"),
        ({"n_predictors": 0}, "n_predictors=0"),
        ({"dropout": 1.0}, "dropout=1"),
        ({"shown": (0.0, 1.0)}, "shown="),
    ],
)
def test_numbers_out_of_range_are_refused(data, wrong, match):
    with pytest.raises(InputError, match=match):
        imputed(data[0], **wrong)


def test_too_few_genes_are_refused(data):
    with pytest.raises(InputError, match="needs 20"):
        imputed(data[0][:, :15])


def test_a_gene_without_counts_stays_as_it_is(data):
    counts = data[0].toarray()
    counts[:, 5] = 0
    layer = imputed(counts, output="counts", epochs=2)
    assert (layer[:, 5] == 0).all()
    assert (layer[:, 6] > 0).all()
