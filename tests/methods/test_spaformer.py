"""SpaFormer and SpaGAT beyond the common checks of every method."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import nbinom

import scdance as sd
from scdance import metrics
from scdance._checks import InputError
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import IMPUTE
from scdance.methods.impute._tissue import _Tissue, around, shown
from scdance.methods.impute.spaformer import POSITIONS

SMALL = {"hidden": 16, "heads": 2, "n_latent": 4, "steps": 6, "max_tokens": 60}
NET = SMALL | {"head_width": 4}


@pytest.fixture(scope="module")
def tiny():
    adata = sd.datasets.simulate_fov(160, 30, n_types=3, n_response=2)
    adata.obs["fov"] = adata.obs["fov"].cat.codes.map({0: "a", 1: "b"}).astype("category")
    return adata


def cells_of(adata, model, **given):
    return read_roles(IMPUTE, model, adata, adata, **given)["cells"]


def fitted(adata, method="spaformer", *, library_key="fov", preset=None, **knobs):
    model = make("impute", method, (NET if method == "spaformer" else SMALL) | knobs, preset=preset)
    cells = cells_of(adata, model, library_key=library_key)
    return model, solve(model, cells=cells, progress=False)[0], cells


@pytest.fixture(scope="module")
def trained(tiny):
    model, _, cells = fitted(tiny)
    return model, cells, _Tissue(model, cells)


# What is hidden


def test_hidden_entries_never_influence_what_is_shown():
    rng = np.random.default_rng(0)
    counts, hidden = torch.from_numpy(rng.poisson(3.0, (40, 30)).astype(np.float32)), torch.rand(40, 30) < 0.5
    other = torch.where(hidden, counts + 100, counts)
    assert torch.equal(shown(counts, hidden, 0.5), shown(other, hidden, 0.5))
    assert not torch.equal(shown(counts + ~hidden, hidden, 0.5), shown(counts, hidden, 0.5))


def test_the_net_is_shown_nothing_of_what_it_predicts(trained, monkeypatch):
    model, _, tissue = trained
    rows, seen = tissue.tiles[0], []
    latent, counts = model.net_.latent, tissue.counts(rows)
    hidden = torch.from_numpy(np.random.default_rng(1).random(tuple(counts.shape)) < 0.5)
    monkeypatch.setattr("scdance.methods.impute._tissue.bilevel_mask", lambda *_: hidden.numpy())
    monkeypatch.setattr(model.net_, "latent", lambda field: (seen.append(field.x), latent(field))[1])
    for given in (counts, counts + 7 * hidden, counts + 7 * ~hidden):
        monkeypatch.setattr(tissue, "counts", lambda _, given=given: given)
        model.loss(tissue, rows, np.random.default_rng(0))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_what_is_shown_keeps_the_mean_of_the_cells():
    x = torch.rand(50, 4000)
    hidden = torch.rand(50, 4000) < 0.4
    hidden[::2] = False
    found = shown(x, hidden, 0.4)
    torch.testing.assert_close(found.mean(dim=1), torch.log1p(x).mean(dim=1), rtol=0.05, atol=0)
    assert torch.equal(found[::2], torch.log1p(x)[::2])


def test_cells_that_are_hidden_as_a_whole_are_shown_as_zeros():
    hidden = torch.zeros(4, 5, dtype=torch.bool)
    hidden[:2] = True
    assert torch.equal(shown(torch.ones(4, 5), hidden, 1.0).count_nonzero(dim=1), torch.tensor([0, 0, 5, 5]))


@pytest.mark.parametrize("loss_on", ["entries", "cells"])
def test_the_loss_has_no_gradient_outside_what_is_hidden(trained, monkeypatch, loss_on):
    model, _, tissue = trained
    errors = torch.ones(len(tissue.tiles[0]), 30, requires_grad=True)
    hidden = np.zeros(tuple(errors.shape), dtype=bool)
    hidden[:9, ::2] = True
    monkeypatch.setattr("scdance.methods.impute._tissue.bilevel_mask", lambda *_: hidden)
    monkeypatch.setattr(model.net_, "errors", lambda *_: errors)
    monkeypatch.setattr(model, "loss_on", loss_on)
    model.loss(tissue, tissue.tiles[0], np.random.default_rng(0)).backward()
    expected = hidden if loss_on == "entries" else np.repeat(hidden.any(axis=1)[:, None], 30, axis=1)
    np.testing.assert_allclose(errors.grad, expected / expected.sum(), rtol=1e-6)


# Decoders and objectives


@pytest.mark.parametrize("decoder", ["poisson", "mlp", "zinb"])
def test_the_loss_of_an_entry_is_that_of_its_formula(tiny, decoder):
    model, _, cells = fitted(tiny, decoder=decoder)
    tissue, rows = _Tissue(model, cells), np.arange(20)
    counts, size, net = tissue.counts(rows), tissue.size[rows], model.net_
    with torch.no_grad():
        z = torch.randn(20, 4)
        found, h = net.errors(z, counts, size).numpy(), net.decoder(z)
        x, size = counts.numpy(), size.numpy()[:, None]
        if decoder == "mlp":
            values = np.maximum(h.numpy() @ net.head.weight.numpy().T + net.head.bias.numpy(), 0)
            expected = (values - np.log1p(x / size)) ** 2
        else:
            mean, theta, logit = (None if each is None else each.numpy() for each in net.head(h))
            expected = size * mean - x * np.log(mean)
            if decoder == "zinb":
                zero = 1 / (1 + np.exp(-logit))
                p = (1 - zero) * nbinom.pmf(x, theta, theta / (theta + size * mean))
                expected = -np.log(np.where(x == 0, zero, 0) + p)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("objective", ["ae", "vae", "mask", "maskvae"])
@pytest.mark.parametrize("decoder", ["mlp", "zinb"])
def test_all_objectives_and_decoders_can_be_trained(tiny, objective, decoder):
    _, result, _ = fitted(tiny, objective=objective, decoder=decoder, loss_on="cells")
    assert np.isfinite(result["expression"]).all() and (result["expression"] >= 0).all()
    assert result["embedding"].shape == (160, 4)


def test_the_divergence_is_that_of_draws_and_comes_in_slowly(tiny):
    model, _, cells = fitted(tiny, objective="vae", decoder="zinb")
    tissue, net = _Tissue(model, cells), model.net_
    rows = tissue.tiles[0]
    field = tissue.field(rows, torch.log1p(tissue.counts(rows)))
    with torch.no_grad():
        mean, log_variance = net.encoder(field).chunk(2, dim=1)
        assert torch.equal(net.latent(field)[0], mean)  # without noise once it is trained
        q, p = torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0, 1)
        draws = q.sample((4000,))
        expected = float((q.log_prob(draws) - p.log_prob(draws)).sum(dim=2).mean())
        net.train()
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for step, weight in ((0, 1e-6 + 1e-4 * (1e-2 - 1e-6)), (20_000, 1e-2)):
            net.n_steps.fill_(step)
            assert float(net.latent(field)[1]) == pytest.approx(weight * expected, rel=0.03)


def test_log_values_give_the_right_mean_of_each_gene(tiny):
    _, result, cells = fitted(tiny, decoder="mlp", loss_on="cells", output="counts", steps=40)
    expected = np.asarray(cells.counts.sum(axis=0)).ravel()
    np.testing.assert_allclose(result["expression"].sum(axis=0), expected, rtol=1e-3)


# Places


@pytest.mark.parametrize("positions", POSITIONS)
def test_all_positions_can_be_trained_and_used_on_new_fields(tiny, positions):
    model, result, _ = fitted(tiny, positions=positions)
    assert np.isfinite(result["expression"]).all()
    new = sd.datasets.simulate_fov(70, 30, n_types=3, n_response=2, n_fovs=1, random_state=5)
    assert np.isfinite(model.predict(cells=cells_of(new, model))["expression"]).all()


@pytest.mark.parametrize("positions", ["cond", "walk", "laplacian", "signnet", "none"])
def test_what_a_graph_says_of_a_place_does_not_change_when_the_tissue_is_moved_and_turned(tiny, positions):
    model, result, _ = fitted(tiny, positions=positions, max_tokens=1000)
    moved = tiny.copy()
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    moved.obsm["spatial"] = moved.obsm["spatial"] @ turn + [1000.0, -50.0]
    found = model.predict(cells=cells_of(moved, model, library_key="fov"))
    np.testing.assert_allclose(found["expression"], result["expression"], atol=1e-4)


@pytest.mark.parametrize("positions", ["patch", "sin", "sin_coord", "mlp"])
def test_coordinates_say_more_when_the_tissue_is_turned_but_not_when_it_is_moved(tiny, positions):
    model, result, _ = fitted(tiny, positions=positions, max_tokens=1000, steps=100)
    moved, turned = tiny.copy(), tiny.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"] * 2 + 64.0
    turned.obsm["spatial"] = turned.obsm["spatial"][:, ::-1] * [1, -1]
    same, other = (model.predict(cells=cells_of(each, model, library_key="fov")) for each in (moved, turned))
    assert np.median(np.abs(same["expression"] - result["expression"])) < 1e-4
    assert np.median(np.abs(other["expression"] - result["expression"])) > 3e-4


def test_signs_of_eigenvectors_are_drawn_in_training_alone(tiny):
    model, _, cells = fitted(tiny, positions="laplacian")
    tissue, net = _Tissue(model, cells), model.net_.encoder
    rows = tissue.tiles[0]
    field = tissue.field(rows, torch.log1p(tissue.counts(rows)))
    with torch.no_grad():
        h = net.token(field.x)
        assert torch.equal(net.encoded(h, field), net.encoded(h, field))
        net.train()
        found = [net.encoded(h, field) for _ in range(4)]
    assert not all(torch.equal(found[0], each) for each in found[1:])


# Fields


@pytest.mark.parametrize("method", ["spaformer", "spagat"])
def test_fields_hear_nothing_of_each_other(tiny, method):
    model, result, _ = fitted(tiny, method, steps=40)
    other, second = tiny.copy(), (tiny.obs["fov"] == "b").to_numpy()
    counts = other.X.toarray()
    counts[second] = counts[second][:, ::-1] + 1
    other.X = sp.csr_matrix(counts)
    found = model.predict(cells=cells_of(other, model, library_key="fov"))["expression"]
    np.testing.assert_allclose(found[~second], result["expression"][~second], atol=1e-5)
    assert not np.allclose(found[second], result["expression"][second], atol=1e-3)


def test_graph_attention_does_not_feel_the_borders_of_tiles(tiny):
    model, result, cells = fitted(tiny, "spagat", output="counts")
    assert len(_Tissue(model, cells).tiles) == 4
    model.max_tokens = 1000
    assert len(_Tissue(model, cells).tiles) == 2
    np.testing.assert_allclose(model.predict(cells=cells)["expression"], result["expression"], rtol=1e-4)


def test_what_lies_around_a_tile_comes_after_it():
    path = sp.csr_matrix(np.diag(np.ones(6), 1) + np.diag(np.ones(6), -1))
    assert around(path, np.array([2, 1]), 0).tolist() == [2, 1]
    assert around(path, np.array([2, 1]), 1).tolist() == [2, 1, 0, 3]
    assert around(path, np.array([2, 1]), 2).tolist() == [2, 1, 0, 3, 4]


@pytest.mark.parametrize("score", ["gatv2", "linear"])
def test_graph_attention_without_neighbours_is_a_net_of_each_cell(tiny, score):
    model, result, _ = fitted(tiny, "spagat", score=score, radius=1e-9)
    order = np.random.default_rng(0).permutation(tiny.n_obs)
    found = model.predict(cells=cells_of(tiny[order].copy(), model))  # beside other cells
    np.testing.assert_allclose(found["expression"], result["expression"][order], atol=1e-5)


@pytest.mark.parametrize(("library_key", "max_tokens", "n"), [("fov", 1000, 80), ("fov", 60, 40), (None, 1000, 10)])
def test_fields_that_judge_do_not_train(tiny, monkeypatch, library_key, max_tokens, n):
    from scdance.methods.impute.spaformer import SpaFormer

    seen, loss = {True: set(), False: set()}, SpaFormer.loss

    def watched(self, tissue, rows, rng):
        seen[self.net_.training] |= set(rows.tolist())
        return loss(self, tissue, rows, rng)

    monkeypatch.setattr(SpaFormer, "loss", watched)
    model, _, _ = fitted(tiny, library_key=library_key, max_tokens=max_tokens, patience=2, drop_cells=0.0)
    assert not seen[True] & seen[False]
    assert len(seen[False]) == n
    assert seen[True] | seen[False] == set(range(160))
    assert "training_valid_loss" in model.history_


@pytest.mark.parametrize("knobs", [{"attention": "flow"}, {"encoder_kind": "gps"}, {"n_layers": 1, "n_random": 8}])
def test_other_encoders_can_be_trained(tiny, knobs):
    assert np.isfinite(fitted(tiny, **knobs)[1]["expression"]).all()


@pytest.mark.parametrize("method", ["spaformer", "spagat"])
def test_what_is_published_can_be_had(tiny, method):
    model, result, _ = fitted(tiny, method, preset="paper", epochs=2)
    assert (model.decoder, model.depth_, model.training.patience) == ("mlp", 250.0, 10)
    assert np.isfinite(result["expression"]).all()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"objective": "mae"}, "objective"),
        ({"positions": "relative"}, "positions"),
        ({"masked_genes": 0.0}, "masked_genes"),
        ({"drop_cells": 1.0}, "drop_cells"),
        ({"objective": "ae"}, "poisson"),
        ({"loss_on": "cells"}, "poisson"),
        ({"heads": 3}, "heads"),
        ({"encoder_kind": "gps", "attention": "flow"}, "gps"),
        ({"target_sum": 0.0}, "target_sum"),
    ],
)
def test_wrong_knobs_are_refused(tiny, knobs, said):
    with pytest.raises(InputError, match=said):
        sd.tl.impute(tiny.copy(), method="spaformer", **knobs)


# Quality


def scored(adata, kept, method, **knobs):
    given = adata.copy()
    given.X, given.layers["truth"] = kept, sp.csr_matrix(adata.X).astype(np.float32)
    arguments = {} if method == "gene_mean" else {"library_key": "fov"}
    sd.tl.impute(given, method=method, output="log1p_250", key_added="r", progress=False, **arguments, **knobs)
    score = metrics.score(given, "impute", key="r", truth="truth", metrics=["rmse_masked"])
    return given, score["rmse_masked"].item()


def test_it_beats_the_mean_of_each_gene_and_of_the_cells_around():
    adata = sd.datasets.simulate_fov(600, 100, n_types=4, n_de=25, depth=3000)
    kept = sd.pp.mask(adata.X, "entries", 0.3, np.random.default_rng(0))
    few = {"hidden": 64, "n_latent": 16, "steps": 200, "max_tokens": 150}
    floors = [scored(adata, kept, "gene_mean")[1], scored(adata, kept, "knn", near="place")[1]]
    found = {name: scored(adata, kept, name, **few)[1] for name in ("spaformer", "spagat")}
    assert found["spaformer"] < 0.97 * min(floors)
    assert found["spagat"] < 0.99 * min(floors)


def test_places_tell_of_genes_that_only_neighbours_explain():
    adata = sd.datasets.simulate_fov(2000, 60, n_types=8, depth=3000)
    is_hidden = np.random.default_rng(0).random(adata.shape) < 0.3
    adata.X = sp.csr_matrix(np.where(is_hidden, 0, adata.X.toarray()))
    expected = (adata.obsm["expected"] @ adata.varm["expected"].T).to_numpy()
    logs = np.log1p(1e4 * expected / expected.sum(axis=1, keepdims=True))
    is_hidden[adata.obs["cell_type"] == "type1"] = False  # which never responds, whatever lies around it
    few = {"hidden": 64, "n_latent": 16, "steps": 600, "max_tokens": 150}
    found = {}
    for positions in ("cond", "none"):
        sd.tl.impute(adata, "spaformer", positions=positions, library_key="fov", key_added="r", progress=False, **few)
        correlations = [
            np.corrcoef(adata.layers["r"][is_hidden[:, j], j], logs[is_hidden[:, j], j])[0, 1]
            for j in np.flatnonzero(adata.var["is_response"])
        ]
        found[positions] = np.mean(correlations)
    # of six seeds: 0.54 to 0.77 with places and 0.26 to 0.55 without; the difference, 0.07 to 0.52, is 0.28 of this one
    assert found["cond"] > 0.55
    assert found["cond"] > found["none"] + 0.1
