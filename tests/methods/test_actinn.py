import numpy as np
import pytest
import torch

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import TASKS
from scdance.methods.annotate import actinn
from scdance.methods.annotate.actinn import ACTINN

KNOBS = {"hidden": [20, 10], "epochs": 40, "batch_size": 32}


def roles_of(query, ref, **knobs):
    model = make("annotate", "actinn", KNOBS | knobs, device="cpu")
    return model, read_roles(TASKS["annotate"], model, query, query, ref=ref, labels_key="cell_type")


def proba_of(query, ref, **knobs):
    query = query.copy()
    sd.tl.annotate(query, ref, method="actinn", labels_key="cell_type", device="cpu", progress=False, **KNOBS | knobs)
    return query.obsm["actinn_proba"]


@pytest.fixture(scope="module")
def parts():
    adata = sd.datasets.toy_clusters(n_obs=400, n_vars=120, k=4, n_de=20)
    return adata[:250].copy(), adata[250:].copy()


@pytest.fixture(scope="module")
def fitted(parts):
    ref, query = parts
    model, roles = roles_of(query, ref)
    result, _ = solve(model, progress=False, **roles)
    return model, roles, result


def test_planted_types_are_found(parts, fitted):
    model, _, result = fitted
    truth = parts[1].obs["cell_type"].astype(str).to_numpy()
    assert (np.array(model.categories_)[result["labels"]] == truth).mean() > 0.95


def test_the_penalty_is_half_the_sum_of_squared_weights_without_biases(fitted):
    net = fitted[0].net_
    expected = sum((value**2).sum() for name, value in net.state_dict().items() if name.endswith("weight"))
    model = ACTINN(l2=0.3)
    model.net_ = net
    net.zero_grad(set_to_none=True)
    assert model._penalty().item() == pytest.approx(0.15 * float(expected), rel=1e-5)
    model._penalty().backward()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, 0.3 * parameter.detach())
    net.zero_grad(set_to_none=True)


def test_weights_start_as_xavier_and_biases_at_zero(fitted):
    model = fitted[0]
    layers = actinn._linear(model.net())
    assert [layer.out_features for layer in layers] == [20, 10, 4]
    for layer in layers:
        bound = np.sqrt(6 / (layer.in_features + layer.out_features))
        assert bound * 0.8 < float(layer.weight.detach().abs().max()) <= bound
        assert (layer.bias == 0).all()


def test_a_lower_pace_moves_the_weights_less(parts, monkeypatch):
    monkeypatch.setattr(actinn, "EVERY", 1)
    ref, query = parts
    moved = []
    for decay in (1.0, 0.5):
        model, roles = roles_of(query, ref, decay=decay, epochs=3, l2=0)
        solve(model, progress=False, **roles)
        moved.append(model.history_["training_loss"][-1])
    assert moved[0] < moved[1]


def test_trimming_drops_the_ends_of_the_total_and_then_of_the_variation():
    rng = np.random.default_rng(0)
    mean, sd = rng.uniform(1, 2, 1000), rng.uniform(1, 2, 1000)
    kept = actinn._trimmed(mean, sd, 1.0)
    assert len(kept) == 960  # 10 at either end of 1,000, then as many of 980
    first = np.flatnonzero((mean > np.sort(mean)[9]) & (mean < np.sort(mean)[-10]))
    variation = (sd / mean)[first]
    assert kept.tolist() == first[(variation > np.sort(variation)[9]) & (variation < np.sort(variation)[-10])].tolist()


@pytest.mark.parametrize(("scale", "expected"), [("ln", 1.0), ("log2", 1 / np.log(2))])
def test_the_network_sees_the_logarithm_that_was_asked_for(scale, expected):
    model = ACTINN(scale=scale)
    model.used_ = np.array([0, 2])
    found = model._input(torch.tensor([[1.0, 5.0, 2.0]]))
    np.testing.assert_allclose(found, [[expected, 2 * expected]], rtol=1e-6)


def test_z_scores_are_those_of_the_reference_and_a_missing_gene_has_the_mean(fitted):
    model, roles, _ = fitted
    cells = roles["ref"].part(columns=model.genes_)
    x = cells.x.toarray()
    found = model._input(torch.from_numpy(x), torch.arange(cells.n_vars) == 3).numpy()
    expected = np.minimum((x - x.mean(axis=0)) / x.std(axis=0), 10)
    expected[:, 3] = 0
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_paper_preset_trims_genes_of_the_reference_alone(parts):
    ref, query = parts
    model = make("annotate", "actinn", {"epochs": 1}, preset="paper", device="cpu")
    roles = read_roles(TASKS["annotate"], model, query, query, ref=ref, labels_key="cell_type")
    solve(model, progress=False, **roles)
    x = roles["ref"].x[:, model.genes_].toarray().astype(np.float64)
    assert model.used_.tolist() == actinn._trimmed(x.mean(axis=0), x.std(axis=0), 1.0).tolist()
    assert 0 < len(model.used_) < x.shape[1]


def test_a_cell_alone_is_annotated_as_among_others_and_genes_may_come_in_any_order(parts, fitted):
    model, _, result = fitted
    some = parts[1][7:8, ::-1].copy()
    sd.tl.annotate(some, method=model)
    np.testing.assert_allclose(some.obsm["actinn_proba"].to_numpy()[0], result["proba"][7], atol=1e-5)


def test_saved_and_loaded_it_answers_the_same(tmp_path, parts, fitted):
    model, _, result = fitted
    model.save(tmp_path / "model")
    query = parts[1].copy()
    sd.tl.annotate(query, method=sd.load(tmp_path / "model"))
    np.testing.assert_array_equal(query.obsm["actinn_proba"].to_numpy(), result["proba"])


def test_equal_seeds_give_equal_results_and_others_differ(parts):
    ref, query = parts
    first = proba_of(query, ref, epochs=2)
    np.testing.assert_array_equal(proba_of(query, ref, epochs=2), first)
    assert not np.array_equal(proba_of(query, ref, epochs=2, random_state=1), first)


@pytest.mark.parametrize("knobs", [{"l2": -0.1}, {"decay": 0.0}, {"decay": 1.5}, {"trim": 50.0}])
def test_numbers_out_of_range_are_refused_by_name(parts, knobs):
    ref, query = parts
    with pytest.raises(ValueError, match=next(iter(knobs))):
        proba_of(query, ref, **knobs)
