"""Held-out molecules as a judge: who sees them, what they choose, and what is told of them."""

from __future__ import annotations

from typing import Any, Self

import anndata as ad
import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError
from scdance._core import evaluate
from scdance.methods.impute._imputer import Imputer
from scdance.pp import Recipe, canonical, thin
from scdance.train import Train


class Blend(Imputer):
    """Expect a blend of the cell's own counts and the mean share: `own` of 0 is the floor, of 1 the counts."""

    task = "impute"
    own: float = 0.9
    n_top: int | None = None
    recipe = Recipe()
    tries = {"own": (0.0, 0.2, 1.0)}

    def fit(self, *, cells: Any) -> Self:
        counts = cells.counts[:]
        type(self).seen.append((self.own, self.output, self.genes, self.policy, counts.copy()))
        self.share_ = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
        return self

    def rates(self, cells: Any) -> Any:
        mean = np.outer(cells.depth, self.share_).astype(np.float32)
        return lambda rows: self.own * cells.counts[rows].toarray() + (1 - self.own) * mean[rows]


class Chooser(Blend):
    """One whose recipe hangs on the knob that is tried."""

    tries = {"n_top": (10, None)}

    @property
    def recipe(self) -> Recipe:  # type: ignore[override]
        return Recipe(select_genes={"n_top": self.n_top})


class Trained(Blend):
    """Blends another part of the counts in with every epoch; the third is the best."""

    training: Train = Train(epochs=8, steps=None)
    tries = {}
    blends = (0.0, 0.4, 0.8, 0.4, 0.2, 0.1, 0.0, 0.0)

    def fit(self, *, cells: Any) -> Self:
        super().fit(cells=cells)
        epochs = self.training.epochs or self.training.steps
        self.history_ = {"training_loss": [0.0] * epochs}
        for epoch in range(1, epochs + 1):
            self.own_ = self.blends[epoch - 1]
            if self.runtime.on_epoch is not None:
                self.runtime.on_epoch("pretraining", epoch, lambda: 1 / 0)
                self.runtime.on_epoch("training", epoch, lambda: self.predict(cells=cells))
        return self

    def rates(self, cells: Any) -> Any:
        mean = np.outer(cells.depth, self.share_).astype(np.float32)
        return lambda rows: self.own_ * cells.counts[rows].toarray() + (1 - self.own_) * mean[rows]


@pytest.fixture
def adata() -> ad.AnnData:
    """90 cells × 60 genes of some hundred counts, so that a cell's own counts are not the best guess."""
    return sd.datasets.toy_clusters(n_obs=90, n_vars=60, k=3, n_de=15, depth=200)


@pytest.fixture(autouse=True)
def _forget() -> None:
    Blend.seen, Chooser.seen, Trained.seen = [], [], []


def scores_of(adata: Any, key: str = "x") -> dict[str, Any]:
    return adata.uns["scdance"]["impute"][key]["notes"]["evaluation"]


def test_trials_see_nine_tenths_of_the_molecules_and_the_final_fit_all(adata):
    sd.tl.impute(adata, Blend(), evaluate=True, key_added="x")
    total = canonical(adata.X)
    *trials, final = (counts for *_, counts in Blend.seen)
    assert len(trials) == 3
    assert abs(final - total).sum() == 0
    for kept in trials:
        held_out = total - kept
        assert held_out.min() >= 0
        assert held_out.sum() / total.sum() == pytest.approx(0.1, abs=0.01)
        assert abs(kept - trials[0]).sum() == 0  # all are judged on the same molecules


def test_held_out_molecules_never_reach_a_trial(adata):
    """Two objects that differ in held-out molecules only are the same to a trial."""
    total = canonical(adata.X)
    kept = thin(total, evaluate.SHARE, np.random.default_rng([0, 2]))
    sd.tl.impute(adata, Blend(), evaluate=True, key_added="x")
    assert abs(Blend.seen[0][-1] - kept).sum() == 0
    Blend.seen.clear()

    def same_kept(counts: Any, share: float, rng: np.random.Generator) -> Any:
        return kept

    other = adata.copy()
    other.X = kept + 5 * (total - kept)  # the held-out molecules of every entry are another number
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "thin", same_kept)
        sd.tl.impute(other, Blend(), evaluate=True, key_added="x")
    for *_, counts in Blend.seen[:-1]:
        assert (counts.data == kept.data).all() and (counts.indices == kept.indices).all()
    assert scores_of(other)["poisson_loss"] != scores_of(adata)["poisson_loss"]


def test_the_knob_that_predicts_best_is_chosen_and_told(adata):
    sd.tl.impute(adata, Blend(), evaluate=True, key_added="x")
    told = scores_of(adata)
    assert told["chosen"] == {"own": 0.2}
    assert told["candidates"]["own"].tolist() == [0.0, 0.2, 1.0]
    losses = told["candidates"]["poisson_loss"]
    assert losses.argmin() == 1 and told["poisson_loss"] == losses[1]
    assert told["poisson_gain"] == told["candidates"]["poisson_gain"][1] < 0
    assert abs(told["candidates"]["poisson_gain"][0]) < 1e-5  # that one is the floor itself
    assert told["share_held_out"] == pytest.approx(0.1)
    assert adata.uns["scdance"]["impute"]["x"]["params"]["own"] == 0.2
    assert Blend.seen[-1][0] == 0.2


def test_trials_are_judged_on_counts_of_all_genes_whatever_was_asked_for(adata):
    asked = {"output": "log1p", "policy": "restore", "genes": list(adata.var_names[:5])}
    sd.tl.impute(adata, Blend(), **asked, evaluate=True, key_added="x")
    for _, output, genes, policy, _ in Blend.seen[:-1]:
        assert (output, genes, policy) == ("counts", None, "replace")
    assert Blend.seen[-1][1:4] == ("log1p", tuple(adata.var_names[:5]), "restore")
    assert adata.var["x_imputability"].notna().sum() > 5


def test_imputability_is_the_correlation_with_what_was_held_out(adata):
    sd.tl.impute(adata, Blend(), evaluate=True, key_added="x")
    total = canonical(adata.X)
    kept = thin(total, evaluate.SHARE, np.random.default_rng([0, 2]))
    held_out = (total - kept).toarray()
    depth = np.asarray(kept.sum(axis=1))
    share = np.asarray(kept.sum(axis=0)).ravel() / kept.sum()
    predicted = 0.2 * kept.toarray() / depth + 0.8 * share
    found = adata.var["x_imputability"].to_numpy()
    few = held_out.sum(axis=0) < 10
    expected = [np.corrcoef(held_out[:, j] / depth.ravel(), predicted[:, j])[0, 1] for j in range(60)]
    np.testing.assert_allclose(found[~few], np.array(expected)[~few], atol=1e-4)
    assert np.isnan(found[few]).all()


@pytest.mark.parametrize("given", ["typed", "made"])
def test_a_knob_that_the_user_set_is_left_alone(adata, given):
    method, typed = (Blend(own=1.0), {}) if given == "made" else (Blend, {"own": 0.9})
    sd.tl.impute(adata, method, **typed, evaluate=True, key_added="x")
    assert scores_of(adata)["chosen"] == {}
    assert adata.uns["scdance"]["impute"]["x"]["params"]["own"] == (1.0 if given == "made" else 0.9)
    assert len(Blend.seen) == 2


def test_a_knob_of_a_preset_is_left_alone(adata):
    class Preset(Blend):
        presets = {"paper": {"own": 1.0}}

    sd.tl.impute(adata, Preset, preset="paper", evaluate=True, key_added="x")
    assert adata.uns["scdance"]["impute"]["x"]["params"]["own"] == 1.0


def test_a_knob_that_changes_the_genes_changes_those_of_the_final_fit(adata):
    sd.tl.impute(adata, Chooser(own=0.2, n_top=20), evaluate=True, key_added="x")
    assert Chooser.seen[-1][-1].shape[1] == 20  # set by the user
    sd.tl.impute(adata, Chooser, own=0.2, evaluate=True, key_added="y")
    n = Chooser.seen[-1][-1].shape[1]
    assert n == (adata.uns["scdance"]["impute"]["y"]["params"].get("n_top") or 60)
    assert adata.var["y_imputed"].sum() == n


def test_epochs_are_chosen_among_those_that_were_looked_at(adata):
    sd.tl.impute(adata, Trained, evaluate=True, key_added="x")
    told = scores_of(adata)
    assert told["candidates"]["epochs"].tolist() == [1, 2, 3, 4, 6, 8]
    assert told["chosen"] == {"epochs": 3}
    assert adata.uns["scdance"]["impute"]["x"]["params"]["epochs"] == 3


@pytest.mark.parametrize("typed", [{"epochs": 6}, {"epochs": None, "steps": 6}])
def test_a_length_that_the_user_set_is_left_alone(adata, typed):
    sd.tl.impute(adata, Trained, **typed, evaluate=True, key_added="x")
    told = scores_of(adata)
    assert told["chosen"] == {}
    params = adata.uns["scdance"]["impute"]["x"]["params"]
    assert {name: params.get(name) for name in ("epochs", "steps")} == {"epochs": None, "steps": None} | typed


def test_the_seed_decides_what_is_held_out_and_nothing_else_does(adata):
    losses = []
    for seed in (1, 1, 2):
        sd.tl.impute(adata, Blend(random_state=seed), evaluate=True, key_added="x")
        losses.append(scores_of(adata)["poisson_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_other_cells_and_labels_are_no_part_of_it(adata):
    sd.tl.impute(adata, Blend(), evaluate=True, key_added="x")
    other = adata.copy()
    other.obs["cell_type"] = other.obs["cell_type"].to_numpy()[::-1]
    sd.tl.impute(other, Blend(), evaluate=True, key_added="x")
    assert scores_of(other)["poisson_loss"] == scores_of(adata)["poisson_loss"]


def test_the_layer_that_is_judged_is_the_one_that_is_read(adata):
    adata.layers["mine"] = adata.X * 2
    sd.tl.impute(adata, Blend(), layer="mine", evaluate=True, key_added="x")
    assert Blend.seen[0][-1].sum() == pytest.approx(2 * 0.9 * adata.X.sum(), rel=0.02)


def test_a_fitted_method_cannot_be_judged(adata):
    model = sd.fit("impute", adata, Blend())
    with pytest.raises(InputError, match=r"fitted already.*Leave `evaluate=` out"):
        sd.tl.impute(adata, model, evaluate=True)


def test_fractions_cannot_be_held_out(adata):
    adata.X = adata.X * 0.3
    with (
        pytest.warns(UserWarning, match="have fractions"),
        pytest.raises(InputError, match=r"impute\(evaluate=True\) needs whole counts"),
    ):
        sd.tl.impute(adata, Blend(), evaluate=True)
    assert Blend.seen == [] and not adata.layers


def test_an_error_in_a_trial_leaves_the_object_as_it_was(adata, picture):
    class Broken(Blend):
        def rates(self, cells: Any) -> Any:
            raise KeyboardInterrupt

    before = picture(adata)
    with pytest.raises(KeyboardInterrupt):
        sd.tl.impute(adata, Broken(), evaluate=True)
    assert picture(adata) == before
