import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import TASKS
from scdance.methods.annotate import scdeepsort

KNOBS = {"n_components": 15, "hidden": 32, "steps": 60, "batch_size": 64}


def roles_of(query, ref, **knobs):
    model = make("annotate", "scdeepsort", KNOBS | knobs, device="cpu")
    return model, read_roles(TASKS["annotate"], model, query, query, ref=ref, labels_key="cell_type")


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


def few(model, cells, n=20):
    return cells.part(np.arange(n), model.genes_)


def test_planted_types_are_found(parts, fitted):
    model, _, result = fitted
    truth = parts[1].obs["cell_type"].astype(str).to_numpy()
    assert (np.array(model.categories_)[result["labels"]] == truth).mean() > 0.95


def test_the_layer_equals_a_loop_over_edges(fitted):
    model, roles, _ = fitted
    cells = few(model, roles["cells"])
    x, f = cells.x.toarray().astype(float), model.gene_features_.astype(float)
    state = {name: value.numpy().astype(float) for name, value in model.net_.state_dict().items()}
    assert np.abs(state["beta"] - 1).max() > 0.01  # learnt
    found = model.logits(cells)
    for i in range(cells.n_obs):
        genes = np.flatnonzero(x[i])
        own = sum(x[i, j] * f[j] for j in genes) / x[i].sum()
        messages = [state["alpha"] * own]  # the self-loop weighs 1
        messages += [state["beta"][j] * (x[i, j] / x[i, genes].mean()) * f[j] for j in genes]
        mean = sum(messages) / (1 + len(genes)) - model.offset_
        hidden = np.maximum(state["head.1.weight"] @ mean + state["head.1.bias"], 0)
        expected = state["head.3.weight"] @ hidden + state["head.3.bias"]
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-3)


def test_edges_into_a_cell_average_one(fitted):
    model, roles, _ = fitted
    shares, n_edges = scdeepsort.shares(few(model, roles["cells"]).x)
    weights = shares.multiply(n_edges[:, None]).toarray()
    np.testing.assert_allclose([row[row > 0].mean() for row in weights], 1, rtol=1e-5)


def test_without_weights_of_genes_only_the_cell_itself_speaks(fitted):
    model, roles, _ = fitted
    cells = few(model, roles["cells"])
    own = model._itself(cells.x) / (1 + np.diff(cells.x.indptr))[:, None]
    beta = model.net_.beta.detach().clone()
    try:
        with torch.no_grad():
            model.net_.beta.zero_()
            expected = model.net_.head(
                model.net_.alpha * torch.from_numpy(own).float() - torch.from_numpy(model.offset_)
            )
        np.testing.assert_allclose(model.logits(cells), expected, rtol=1e-4, atol=1e-4)
    finally:
        with torch.no_grad():
            model.net_.beta.copy_(beta)


def test_gene_features_are_the_components_of_genes_over_cells(fitted):
    model, roles, _ = fitted
    cells = roles["ref"].part(columns=model.genes_)
    found = scdeepsort.gene_features(cells, 5, 0)
    expected = PCA(5, svd_solver="full").fit_transform(cells.x.toarray().T.astype(float))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


def test_features_of_the_cells_of_the_reference_are_standardised(fitted):
    model, roles, _ = fitted
    z = model._itself(roles["ref"].x[:, model.genes_]) - model.offset_
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-3)


def test_rare_types_are_not_learnt_when_excluded(parts):
    ref, query = parts
    n = ref.obs["cell_type"].value_counts()
    rare = str(n.idxmin())
    model, roles = roles_of(query, ref, exclude_rate=float((n.min() + 0.5) / n.sum()))
    result, _ = solve(model, progress=False, **roles)
    code = model.categories_.index(rare)
    assert model.learnt_.tolist() == [name != rare for name in model.categories_]
    assert (result["labels"] != code).all()
    assert (result["proba"].argmin(axis=1) == code).mean() > 0.5


def test_cells_whose_best_probability_is_below_the_limit_are_unsure(fitted):
    model, roles, result = fitted
    sure = copy.copy(model)
    sure.reject = float(np.median(result["proba"].max(axis=1)))
    found = sure.predict(cells=roles["cells"])["labels"]
    unsure = result["proba"].max(axis=1) < sure.reject
    assert 0 < unsure.sum() < len(unsure)
    np.testing.assert_array_equal(found == 4, unsure)


def test_a_patience_holds_cells_out_and_stops(parts):
    ref, query = parts
    model, roles = roles_of(query, ref, epochs=200, lr=0.05, patience=3)
    solve(model, progress=False, **roles)
    assert "no better validation loss in 3 epochs" in model.stopped_
    assert len(model.history_["training_valid_loss"]) < 200


def test_the_prediction_of_a_cell_depends_on_no_other(fitted):
    model, roles, _ = fitted
    cells = few(model, roles["cells"])
    all_at_once = model.logits(cells)
    permuted = model.logits(replace(cells, x=cells.x[::-1]))
    np.testing.assert_allclose(permuted[::-1], all_at_once, atol=1e-5)


def test_a_cell_alone_is_annotated_as_among_others_and_genes_may_come_in_any_order(parts, fitted):
    model, _, result = fitted
    some = parts[1][7:8, ::-1].copy()
    sd.tl.annotate(some, method=model)
    np.testing.assert_allclose(some.obsm["scdeepsort_proba"].to_numpy()[0], result["proba"][7], atol=1e-5)


def test_saved_and_loaded_it_answers_the_same(tmp_path, parts, fitted):
    model, _, result = fitted
    model.save(tmp_path / "model")
    query = parts[1].copy()
    sd.tl.annotate(query, method=sd.load(tmp_path / "model"))
    np.testing.assert_array_equal(query.obsm["scdeepsort_proba"].to_numpy(), result["proba"])


@pytest.mark.parametrize("knobs", [{"dropout": 1.0}, {"exclude_rate": -0.1}, {"exclude_rate": 0.9}])
def test_numbers_out_of_range_are_refused_by_name(parts, knobs):
    ref, query = parts
    with pytest.raises(ValueError, match=next(iter(knobs))):
        sd.tl.annotate(query.copy(), ref, method="scdeepsort", labels_key="cell_type", **knobs)
