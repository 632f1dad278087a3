"""scDCC beyond the common checks: what pairs do, and that without them it is scDeepCluster."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read
from scdance._core.run import make, solve, watched
from scdance.methods.cluster.scdcc import _cannot, _must, _Turns

SHORT = {"encoder": (32,), "n_latent": 8, "sigma": 1.0, "pretrain_steps": 60, "epochs": 12, "tol": 0.0}


@pytest.fixture(scope="module")
def adata():
    """Clusters that two networks this small do not part without help."""
    return sd.datasets.toy_clusters(n_obs=240, n_vars=120, k=4, n_de=12, lfc=0.9, depth=1500)


def run(adata, **arguments):
    adata = adata.copy()
    sd.tl.cluster(adata, method="scdcc", n_clusters=4, progress=False, **SHORT, **arguments)
    return adata


def partly(adata, share, seed=0):
    """The same object with labels of a part of the cells, and which cells these are."""
    adata = adata.copy()
    known = np.random.default_rng(seed).random(adata.n_obs) < share
    adata.obs["known"] = adata.obs["cell_type"].astype(str).where(known, "")
    return adata, known


# ------------------------------------------------------------------ losses


def together(a, b):
    return torch.logsumexp(torch.log(torch.tensor([a])) + torch.log(torch.tensor([b])), dim=1)


def test_losses_of_pairs_are_those_of_the_paper_and_the_code():
    a, b = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
    shared = np.dot(a, b)
    assert _must(together(a, b)).item() == pytest.approx(-np.log(shared))
    assert _cannot(together(a, b)).item() == pytest.approx(-np.log(1 - shared), rel=1e-5)


def test_losses_are_0_where_the_pair_is_satisfied_and_finite_where_it_is_not():
    sure, other = [1 - 2e-9, 1e-9, 1e-9], [1e-9, 1 - 2e-9, 1e-9]
    assert _must(together(sure, sure)).item() == pytest.approx(0, abs=1e-6)
    assert 10 < _must(together(sure, other)).item() < 100
    assert _cannot(together(sure, other)).item() == pytest.approx(0, abs=1e-6)
    assert 10 < _cannot(together(sure, sure)).item() < 100


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_losses_of_pairs_that_may_be_wrong_are_how_likely_they_are_told(error):
    a, b = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
    shared = np.dot(a, b)
    told_together = shared * (1 - error) + (1 - shared) * error
    assert _must(together(a, b), error).item() == pytest.approx(-np.log(told_together), rel=1e-5)
    assert _cannot(together(a, b), error).item() == pytest.approx(-np.log(1 - told_together), rel=1e-5)


def test_no_pair_costs_more_than_an_error_that_is_expected():
    sure, other = [1 - 2e-9, 1e-9, 1e-9], [1e-9, 1 - 2e-9, 1e-9]
    assert _must(together(sure, other), 0.05).item() == pytest.approx(-np.log(0.05), rel=1e-5)
    assert _cannot(together(sure, sure), 0.05).item() == pytest.approx(-np.log(0.05), rel=1e-4)


def test_an_error_that_leaves_pairs_nothing_to_say_is_refused(adata):
    with pytest.raises(InputError, match="pair_error"):
        run(adata, labels_key="cell_type", pair_error=0.5)


def test_must_link_pulls_and_cannot_link_pushes():
    for loss, sign in ((_must, -1), (_cannot, 1)):
        logits = torch.tensor([[0.3, 0.0], [0.0, 0.3]], requires_grad=True)
        log_q = torch.log_softmax(logits, dim=1)
        loss(torch.logsumexp(log_q[:1] + log_q[1:], dim=1)).backward()
        # along the gradient's descent the first cell moves to the cluster of the second, or away from it
        towards = -logits.grad[0, 1] + logits.grad[0, 0]
        assert torch.sign(towards).item() == -sign


@pytest.mark.parametrize("n_pairs", [23, 11, 3])
def test_an_epoch_sees_each_pair_once_and_the_next_begins_anew(n_pairs):
    pairs = np.arange(2 * n_pairs).reshape(-1, 2)
    turns = _Turns(pairs, n_steps=5, rng=np.random.default_rng(0))
    for _ in range(2):
        seen = np.vstack([turns.next() for _ in range(5)])
        assert sorted(map(tuple, seen)) == sorted(map(tuple, pairs))
        assert not turns.left


def test_a_checkpoint_of_other_pairs_is_not_continued(adata, tmp_path):
    run(adata, must_link=[[0, 1]], checkpoint=tmp_path)
    with pytest.raises(InputError, match="another call"):
        run(adata, must_link=[[0, 2]], checkpoint=tmp_path)


@pytest.mark.parametrize(("ml_weight", "cl_weight"), [(2.0, 0.0), (0.0, 3.0), (2.0, 3.0)])
def test_each_kind_of_pair_has_its_own_weight(adata, ml_weight, cl_weight):
    must, cannot = np.array([[0, 1], [2, 3], [4, 5]]), np.array([[6, 7], [8, 9]])
    model = make("cluster", "scdcc", {"n_clusters": 4, **SHORT, "ml_weight": ml_weight, "cl_weight": cl_weight})
    cells = read(adata, model, must_link=must, cannot_link=cannot)
    proba = solve(model, cells=cells, progress=False)[0]["proba"].astype(float)
    model._pairs = must, cannot
    loss = model._further_loss(cells, n_steps=1, rng=np.random.default_rng(0))().item()
    pull = -np.log((proba[must[:, 0]] * proba[must[:, 1]]).sum(axis=1)).mean()
    push = -np.log(1 - (proba[cannot[:, 0]] * proba[cannot[:, 1]]).sum(axis=1)).mean()
    assert loss == pytest.approx(ml_weight * pull + cl_weight * push, rel=1e-3)


# ------------------------------------------------------------------ what pairs do


def test_without_pairs_it_is_scdeepcluster_bit_for_bit(adata):
    ours = run(adata)
    other = adata.copy()
    sd.tl.cluster(other, method="scdeepcluster", n_clusters=4, progress=False, **SHORT)
    np.testing.assert_array_equal(ours.obsm["X_scdcc"], other.obsm["X_scdeepcluster"])
    assert ours.obs["scdcc"].tolist() == other.obs["scdeepcluster"].tolist()


def test_labels_of_some_cells_help_those_that_have_none(adata):
    some, known = partly(adata, 0.3)
    plain, told = run(adata), run(some, labels_key="known", n_pairs=2000)
    truth = adata.obs["cell_type"][~known]
    without = adjusted_rand_score(truth, plain.obs["scdcc"][~known])
    with_pairs = adjusted_rand_score(truth, told.obs["scdcc"][~known])
    assert with_pairs > without + 0.05


def test_pairs_are_satisfied_more_often_than_without_them(adata):
    must, cannot = sd.pp.pairs_from_labels(adata.obs["cell_type"], 800)
    plain, told = run(adata).obs["scdcc"].to_numpy(), run(adata, must_link=must, cannot_link=cannot)
    notes = told.uns["scdance"]["cluster"]["scdcc"]["notes"]
    assert (notes["n_must_link"], notes["n_cannot_link"]) == (len(must), len(cannot))
    before = (plain[must[:, 0]] != plain[must[:, 1]]).sum() + (plain[cannot[:, 0]] == plain[cannot[:, 1]]).sum()
    assert notes["n_must_link_violated"] + notes["n_cannot_link_violated"] < 0.8 * before


def test_more_pairs_are_satisfied_as_training_goes_on(adata):
    must, cannot = sd.pp.pairs_from_labels(adata.obs["cell_type"], 800)
    violated = []

    def look(stage, epoch, predict, rows):
        if stage == "training":
            labels = predict()["labels"]
            apart, together = (labels[pairs[:, 0]] != labels[pairs[:, 1]] for pairs in (must, cannot))
            violated.append(apart.sum() + (~together).sum())

    with watched(look):
        run(adata, must_link=must, cannot_link=cannot)
    assert len(violated) == SHORT["epochs"]
    assert np.mean(violated[-3:]) < 0.9 * np.mean(violated[:3])


def test_names_and_positions_of_pairs_mean_the_same(adata):
    must, cannot = sd.pp.pairs_from_labels(adata.obs["cell_type"], 100)
    names = adata.obs_names.to_numpy()
    one = run(adata, must_link=must, cannot_link=cannot)
    two = run(adata, must_link=names[must], cannot_link=names[cannot])
    np.testing.assert_array_equal(one.obsm["X_scdcc"], two.obsm["X_scdcc"])


def test_some_wrong_pairs_do_little_harm(adata):
    def score(wrong):
        must, cannot = sd.pp.pairs_from_labels(adata.obs["cell_type"], 1500, wrong=wrong)
        return adjusted_rand_score(adata.obs["cell_type"], run(adata, must_link=must, cannot_link=cannot).obs["scdcc"])

    right = score(0.0)
    with pytest.warns(UserWarning, match="chains of must-link pairs"):
        assert score(0.05) > right - 0.1


def test_cells_without_counts_take_their_pairs_along(adata):
    some = adata.copy()
    x = some.X.tolil()
    x[3] = 0
    some.X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 240 cells have no counts"):
        told = run(some, must_link=[[3, 4], [5, 6]])
    assert told.uns["scdance"]["cluster"]["scdcc"]["notes"]["n_must_link"] == 1


# ------------------------------------------------------------------ batches


def test_a_batch_covariate_takes_the_batch_out_of_the_space():
    adata = sd.datasets.toy_clusters(n_obs=300, n_vars=120, k=3, n_de=25, lfc=1.5, batches=2, depth=2000)
    knobs = {"n_clusters": 3, "encoder": (32,), "n_latent": 8, "sigma": 1.0, "pretrain_steps": 300, "epochs": 5}
    with_key, without = adata.copy(), adata.copy()
    sd.tl.cluster(with_key, method="scdeepcluster", batch_key="batch", progress=False, **knobs)
    sd.tl.cluster(without, method="scdeepcluster", progress=False, **knobs)
    batch = adata.obs["batch"].to_numpy()

    def mixed(adata):
        """Silhouette of the batches within the types: 0 where they are mixed."""
        z, types = adata.obsm["X_scdeepcluster"], adata.obs["cell_type"].to_numpy()
        return np.mean([sd.metrics.silhouette(z[types == t], batch[types == t]) for t in np.unique(types)])

    assert mixed(with_key) < mixed(without)
    assert adjusted_rand_score(adata.obs["cell_type"], with_key.obs["scdeepcluster"]) > 0.9


def test_a_batch_that_training_has_not_seen_is_predicted():
    adata = sd.datasets.toy_clusters(n_obs=300, n_vars=120, k=3, n_de=25, lfc=1.5, batches=3, depth=2000)
    old = adata[adata.obs["batch"] != "batch3"].copy()
    new = adata[adata.obs["batch"] == "batch3"].copy()
    knobs = {"n_clusters": 3, "encoder": (32,), "n_latent": 8, "sigma": 1.0, "pretrain_steps": 300, "epochs": 5}
    model = sd.fit("cluster", old, method="scdeepcluster", batch_key="batch", progress=False, **knobs)
    sd.tl.cluster(new, method=model, batch_key="batch")
    assert adjusted_rand_score(new.obs["cell_type"], new.obs["scdeepcluster"]) > 0.7


# ------------------------------------------------------------------ bad pairs


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([[0, 999]], "positions from 0 to 239; found"),
        ([[0, -1]], "positions from 0 to 239"),
        ([[0, 1, 2]], r"has shape \(1, 3\)"),
        ([["cell_0", "nobody"]], "names 1 cells that are not there: nobody.*`obs_names`, such as"),
        ([[0, 1], [2]], "its rows differ in length"),
        ([[4, 4]], "pairs 1 cells with themselves"),
        ([[0.5, 1.0]], "float64 values"),
    ],
)
def test_pairs_that_are_none_are_refused(adata, pairs, says):
    with pytest.raises(InputError, match=says):
        run(adata, must_link=pairs)


def test_pairs_in_both_lists_are_left_out_with_a_warning(adata):
    with pytest.warns(UserWarning, match="1 pairs are in must_link and in cannot_link"):
        told = run(adata, must_link=[[0, 1], [2, 3]], cannot_link=[[1, 0], [4, 5]])
    notes = told.uns["scdance"]["cluster"]["scdcc"]["notes"]
    assert (notes["n_must_link"], notes["n_cannot_link"]) == (1, 1)


def test_a_chain_of_must_links_against_a_cannot_link_is_told(adata):
    with pytest.warns(UserWarning, match="1 cannot-link pairs join cells that chains of must-link pairs hold together"):
        run(adata, must_link=[[0, 1], [1, 2]], cannot_link=[[0, 2]])


def test_methods_that_learn_from_nothing_refuse_labels_and_pairs(adata):
    with pytest.raises(InputError, match="takes no `labels_key=`"):
        sd.tl.cluster(adata, method="kmeans", n_clusters=4, labels_key="cell_type")
    with pytest.raises(InputError, match=r"takes no `must_link=`.* or take a method that reads it: scdcc"):
        sd.tl.cluster(adata, method="scdeepcluster", n_clusters=4, must_link=[[0, 1]])


def test_labels_that_no_two_cells_share_are_told(adata):
    some = adata.copy()
    some.obs["depth"] = np.arange(adata.n_obs) * 1.5
    with pytest.warns(UserWarning, match=r"Each of the 240 cells with a label has one of its own.*`labels_key=`"):
        run(some, labels_key="depth")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("one", r"`adata.obs\['one'\]` holds 1 type \(T\); at least 2"),
        ("none", r"`adata.obs\['none'\]` holds 0 type"),
        ("celltype", "Did you mean 'cell_type'"),
    ],
)
def test_labels_that_give_no_pairs_are_refused(adata, labels, says):
    some = adata.copy()
    some.obs["one"], some.obs["none"] = "T", ""
    with pytest.raises((InputError, KeyError), match=says):
        sd.tl.cluster(some, method="scdcc", n_clusters=4, labels_key=labels, **SHORT)
    assert list(some.obs) == ["cell_type", "one", "none"] and not some.uns


# ------------------------------------------------------------------ presets

PRESETS = ["paper", "dance", "worm_neuron", "10x_pbmc", "mouse_bladder", "mouse_es"]


def test_there_is_a_preset_for_the_paper_for_dance_and_for_each_data_set():
    assert sorted(make("cluster", "scdcc", {}).presets) == sorted(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train(adata, preset):
    model = make("cluster", "scdcc", {"n_clusters": 4, "pretrain_epochs": 1, "epochs": 1}, preset=preset)
    cells = read(adata, model, must_link=[[0, 1], [2, 3]])
    assert solve(model, cells=cells, progress=False)[0]["embedding"].shape == (240, 32)
    assert (model.likelihood, model.notes_["n_must_link"]) == ("zinb", 2)


def test_presets_have_the_published_numbers():
    paper, worm = (make("cluster", "scdcc", {}, preset=preset) for preset in ("paper", "worm_neuron"))
    assert (paper.n_top_genes, paper.sigma, paper.pretraining.epochs, paper.training.lr) == (2100, 2.5, 300, 1.0)
    assert (worm.n_top_genes, worm.n_pairs, worm.training.epochs, worm.training.lr) == (None, 20_000, 100, 0.01)


# ------------------------------------------------------------------ where pairs come from


def test_pairs_from_labels_are_right_but_for_the_asked_share():
    labels = np.random.default_rng(0).choice(["a", "b", "c", ""], 300)
    must, cannot = sd.pp.pairs_from_labels(labels, 3000, wrong=0.2, random_state=1)
    assert len(must) + len(cannot) == 3000
    assert len({tuple(pair) for pair in np.vstack([must, cannot])}) == 3000
    assert (labels[np.vstack([must, cannot])] != "").all()
    wrong = (labels[must[:, 0]] != labels[must[:, 1]]).sum() + (labels[cannot[:, 0]] == labels[cannot[:, 1]]).sum()
    assert wrong / 3000 == pytest.approx(0.2, abs=0.03)


def test_pairs_from_markers_are_mostly_right():
    adata = sd.datasets.toy_clusters(n_obs=300, n_vars=200, k=3, n_de=30, lfc=1.5)
    markers = {f"type{i + 1}": adata.var_names[adata.varm["lfc"][:, i] > 0] for i in range(3)}
    must, cannot = sd.pp.pairs_from_markers(adata, markers, 500)
    types = adata.obs["cell_type"].to_numpy()
    assert (types[must[:, 0]] == types[must[:, 1]]).mean() > 0.95
    assert (types[cannot[:, 0]] != types[cannot[:, 1]]).mean() > 0.95
    with pytest.raises(InputError, match=r"1 markers are not in `adata.var_names`: nothing_such"):
        sd.pp.pairs_from_markers(adata, {**markers, "type4": ["nothing_such"]})
