"""Each common check passes a sound method and fails the smallest method that breaks it."""

from __future__ import annotations

import doctest
import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import nn

import scdance as sd
from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance._core.task import TASKS
from scdance.pp import Recipe
from scdance.testing import CHECKS, CheckFailed, Trial, check_method
from scdance.testing._toys import TOYS
from scdance.testing._words import SECTIONS
from scdance.train import Batch, Batches, TorchMethod, Train

MEMORY = "memory_grows_with_the_cells"


def worded(cls: type[Method], *, without: str = "") -> type[Method]:
    """Give a class the sections that each must write for itself."""
    sections = [f"{title}\n{'-' * len(title)}\n{cls.__name__}.\n" for title in SECTIONS if title != without]
    parameters = "Parameters\n----------\nshare, SHARE, more, inductive\n    Part of the cells in the first group.\n"
    cls.__doc__ = "\n".join(["Cut the cells in two.\n", *sections, parameters])
    return cls


@worded
class Sound(Method):
    share: float = 0.6

    task = "cluster"
    needs = ("lognorm",)
    recipe = Recipe(normalize_total={}, log1p={})
    shift_ = 0.0

    def fit(self, *, cells: Cells) -> Self:
        rng = np.random.default_rng(self.random_state)
        self.axes_ = rng.standard_normal((cells.n_vars, 2), dtype=np.float32)
        self.cut_ = float(np.quantile(self.embed(cells)[:, 0], self.share))
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        z = self.embed(cells)
        return {"labels": z[:, 0] > self.cut_, "embedding": z + self.shift_}

    def embed(self, cells: Cells) -> np.ndarray:
        return cells.x @ self.axes_


@worded
class SoundShares(Method):
    share: float = 0.6

    task = "deconvolve"
    needs = ("counts", "ref.labels")
    recipe = Recipe()

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        is_type = np.eye(len(ref.categories), dtype=np.float32)[ref.labels]
        self.profiles_ = ref.x.T @ is_type / is_type.sum(axis=0)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        amounts = self.amounts(cells)
        return {"proportions": amounts / amounts.sum(axis=1, keepdims=True), "top": amounts.argmax(axis=1)}

    def amounts(self, cells: Cells) -> np.ndarray:
        return cells.x @ self.profiles_


@worded
class SoundPair(Method):
    share: float = 0.6

    task = "joint_embed"
    needs = ("lognorm",)
    recipe = Recipe(normalize_total={}, log1p={})
    shift_ = 0.0

    def fit(self, *, pair: Pair) -> Self:
        rng = np.random.default_rng(self.random_state)
        widths = [side.x.shape[1] for side in (pair.source, pair.target)]
        self.axes_ = [rng.standard_normal((n_vars, 2), dtype=np.float32) for n_vars in widths]
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        z = np.zeros((pair.n_obs, 2), dtype=np.float32)
        for side, rows, axes in zip((pair.source, pair.target), pair.at.T, self.axes_, strict=True):
            z[rows >= 0] += (side.x @ axes)[rows[rows >= 0]]
        return {"embedding": z + self.shift_}


@worded
class SoundScreen(Method):
    share: float = 0.6

    task = "predict_perturbation"
    needs = ("lognorm", "perturbation")
    recipe = Recipe(normalize_total={"target": 1e4}, log1p={})

    def fit(self, *, cells: Cells) -> Self:
        self.change_ = np.asarray(cells.x[cells.screen.codes > 0].mean(axis=0)).ravel()
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        change = np.repeat(self.change_[:, None], len(cells.screen.targets), axis=1)
        return {"profile": 2 * change, "change": change}


@worded
class SoundPanel(Method):
    share: float = 0.6

    task = "predict_genes"
    needs = ("lognorm",)

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        self.mean_ = np.asarray(ref.target.x.mean(axis=0)).ravel()
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"prediction": cells.depth[:, None] * self.mean_}


def calling_tool(data: str = "adata") -> dict[str, Any]:
    """What the tool holds, with the user's object under the name `data`: a way in for methods that cheat."""
    frame = sys._getframe()
    while data not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals


BROKEN: list[tuple[str, type[Method]]] = []


def breaks(check: str) -> Callable[[type[Method]], type[Method]]:
    def note(cls: type[Method]) -> type[Method]:
        BROKEN.append((check, cls if check == "says_when_to_use_it" else worded(cls)))
        return cls

    return note


@breaks("runs")
class HalfAResult(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"labels": super().predict(cells=cells)["labels"][::2]}


@breaks("writes_what_the_task_gives")
class ExtraColumn(Sound):
    def fit(self, *, cells: Cells) -> Self:
        super().fit(cells=cells)
        calling_tool()["adata"].obs["extra"] = 1
        return self


@breaks("leaves_the_matrices")
class WritesIntoCounts(Sound):
    needs = ("counts",)

    def fit(self, *, cells: Cells) -> Self:
        super().fit(cells=cells)
        cells.counts.data += 1
        return self


@breaks("types_and_shapes")
class OwnCategories(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.categories_ = ["low", "high"]
        return super().fit(cells=cells)


@breaks("largest_group_first")
class SmallestFirst(Sound):
    share: float = 0.4


@breaks("returns_none_or_a_copy")
class WritesIntoTheOriginal(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        tool = calling_tool()
        if tool["copy"]:
            tool["adata"].obs["extra"] = 1
        return super().predict(cells=cells)


@breaks("survives_a_file")
class UnwritableNote(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.notes_ = {"number": 2**70}
        return super().fit(cells=cells)


@breaks("leaves_global_states")
class LogFile(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        Path("log.txt").write_text("done")
        return super().predict(cells=cells)


@breaks("leaves_global_states")
class DrawsFromTorch(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        torch.rand(1)
        return super().predict(cells=cells)


@breaks("leaves_global_states")
class WarningFilter(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        warnings.simplefilter("ignore", ImportWarning)
        return super().predict(cells=cells)


@breaks("leaves_global_states")
class Environment(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        os.environ["SCDANCE_TEST"] = "1"
        return super().predict(cells=cells)


@breaks("leaves_global_states_after_an_error")
class NoFinally(Sound):
    def fit(self, *, cells: Cells) -> Self:
        old = np.seterr(all="ignore")
        super().fit(cells=cells)
        np.seterr(**old)
        return self


@breaks("leaves_the_object_when_interrupted")
class SwallowsInterrupts(Sound):
    def fit(self, *, cells: Cells) -> Self:
        try:
            return super().fit(cells=cells)
        except BaseException:  # noqa: BLE001
            self.axes_, self.cut_ = np.zeros((cells.n_vars, 2), dtype=np.float32), 0.0
            return self


@breaks("repeats_without_labels")
class Unseeded(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.shift_ = np.random.default_rng().random()
        return super().fit(cells=cells)


@breaks("repeats_without_labels")
class GlobalPythonRandom(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.shift_ = random.random()
        return super().fit(cells=cells)


@breaks("repeats_without_labels")
class GlobalNumpyRandom(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.shift_ = np.random.random()  # noqa: NPY002
        return super().fit(cells=cells)


@breaks("repeats_without_labels")
class GlobalTorchRandom(Sound):
    def fit(self, *, cells: Cells) -> Self:
        with torch.random.fork_rng(devices=[]):
            self.shift_ = torch.rand(1).item()
        return super().fit(cells=cells)


@breaks("repeats_without_labels")
class SeesLabels(Sound):
    def fit(self, *, cells: Cells) -> Self:
        super().fit(cells=cells)
        truth = calling_tool()["adata"].obs["cell_type"] == "type1"
        self.shift_ = float(self.embed(cells)[truth].mean())
        return self


@breaks("saves_and_loads")
class ForgetsItsState(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.offset = 1.0  # no underscore at its end, so it is not saved
        return super().fit(cells=cells)

    def embed(self, cells: Cells) -> np.ndarray:
        return super().embed(cells) + self.offset


@breaks("saves_no_training_data")
class KeepsTheCells(Sound):
    def fit(self, *, cells: Cells) -> Self:
        super().fit(cells=cells)
        self.cells_ = self.embed(cells)
        return self


@breaks("saves_no_training_data")
class KeepsTheNames(Sound):
    def fit(self, *, cells: Cells) -> Self:
        self.names_ = cells.obs_names.tolist()
        return super().fit(cells=cells)


@breaks("follows_the_order_of_cells")
class CountsTheCells(Sound):
    def embed(self, cells: Cells) -> np.ndarray:
        return super().embed(cells) + np.arange(cells.n_obs, dtype=np.float32)[:, None]


@breaks("predicts_a_cell_on_its_own")
class CentresTheQuery(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        found = super().predict(cells=cells)
        return found | {"embedding": found["embedding"] - found["embedding"].mean(axis=0)}


@breaks("ignores_the_order_of_genes")
class TakesTheFirstGene(Sound):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return super().predict(cells=cells) | {"embedding": calling_tool()["adata"].X[:, :1].toarray()}


@breaks("is_order_free_if_it_says_so")
class StartsAtTheFirstCell(Sound):
    order_free = True

    def fit(self, *, cells: Cells) -> Self:
        super().fit(cells=cells)
        self.origin_ = self.embed(cells)[0]
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        found = super().predict(cells=cells)
        return found | {"embedding": found["embedding"] - self.origin_}


@breaks("names_unknown_parameters")
class CapitalKnob(Sound):
    SHARE: float = 0.6  # the nearest name is looked for among lower-case ones


@breaks("names_missing_inputs")
class HidesItsNeeds(Sound):
    needs = ("counts",)

    def __post_init__(self) -> None:
        self.needs = ("lognorm",)


@breaks("names_missing_inputs")
class RefusesWhatItNeeds(Sound):
    def __post_init__(self) -> None:
        self.needs = ("counts",)


@breaks("documents_its_knobs")
class SilentKnob(Sound):
    silent: int = 1


@breaks("says_when_to_use_it")
class NeverSaysNo(Sound):
    pass


worded(NeverSaysNo, without="When not")


@breaks("says_when_to_use_it")
class SaysTheSame(Sound):
    pass


SaysTheSame.__doc__ = Sound.__doc__


@breaks("constructs")
class UnknownPreset(Sound):
    presets = {"paper": {"shar": 0.5}}


@breaks("states_known_facts")
class MisspeltNeed(Sound):
    needs = ("lognrom",)


@breaks("states_known_facts")
class AnnotatedFact(Sound):
    inductive: bool = True


@breaks("states_known_facts")
class BareKnob(Sound):
    share = 0.7


@breaks("states_known_facts")
class ExemptFromNothing(Sound):
    exempt = {"is_beautiful": "It is not."}


@breaks(MEMORY)
class DenseAtOnce(Sound):
    def embed(self, cells: Cells) -> np.ndarray:
        return cells.x.toarray() @ self.axes_


@breaks(MEMORY)
class AllPairsInNumpy(Sound):
    def embed(self, cells: Cells) -> np.ndarray:
        z = super().embed(cells)
        return z + 0 * (z @ z.T)[:, :1]


@breaks(MEMORY)
class AllPairsInTorch(Sound):
    def embed(self, cells: Cells) -> np.ndarray:
        z = super().embed(cells)
        t = torch.from_numpy(z)
        return z + 0 * (t @ t.T)[:, :1].numpy()


# Where a check looks at other things than in a clustering: the reference, the truth beside spots, two modalities.


@breaks("runs")
class SharesOfTwo(SoundShares):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        found = super().predict(cells=cells)
        return found | {"proportions": 2 * found["proportions"]}


@breaks("writes_what_the_task_gives")
class ExtraColumnOfTheReference(SoundShares):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        super().fit(ref=ref, cells=cells)
        calling_tool("ref_layer")["ref"].obs["extra"] = 1
        return self


@breaks("leaves_the_matrices")
class WritesIntoTheReference(SoundShares):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        super().fit(ref=ref, cells=cells)
        calling_tool("ref_layer")["ref"].X.data += 1
        return self


@breaks("types_and_shapes")
class OwnTypes(SoundShares):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        self.categories_ = ["a", "b", "c"]
        return super().predict(cells=cells)


@breaks("repeats_without_labels")
class SeesTheShares(SoundShares):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        super().fit(ref=ref, cells=cells)
        self.profiles_ = self.profiles_ * (1 + calling_tool()["adata"].obsm["true_prop"].iloc[0].to_numpy())
        return self


@breaks("repeats_without_labels")
class SeesOtherColumnsOfTheReference(SoundShares):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        super().fit(ref=ref, cells=cells)
        self.profiles_ = self.profiles_ + calling_tool("ref_layer")["ref"].obs.shape[1]
        return self


@breaks("saves_no_training_data")
class KeepsTheReference(SoundShares):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        self.depth_ = ref.depth
        return super().fit(ref=ref, cells=cells)


@breaks("is_order_free_if_it_says_so")
class StartsAtTheFirstOfTheReference(SoundShares):
    order_free = True

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        super().fit(ref=ref, cells=cells)
        self.profiles_ = self.profiles_ + ref.x[0].toarray().T
        return self


@breaks("names_missing_inputs")
class HidesThatItNeedsLabels(SoundShares):
    def __post_init__(self) -> None:
        self.needs = ("counts",)


@breaks(MEMORY)
class SpotsByCells(SoundShares):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        self.largest_ = float(np.outer(cells.depth, ref.depth).max())
        return super().fit(ref=ref, cells=cells)


@breaks("runs")
class WritesNaN(SoundPair):
    def predict(self, *, pair: Pair) -> dict[str, Any]:
        return {"embedding": np.where(pair.at.min(axis=1) < 0, np.nan, 1.0)[:, None]}


@breaks("writes_what_the_task_gives")
class ExtraColumnOfAModality(SoundPair):
    def fit(self, *, pair: Pair) -> Self:
        super().fit(pair=pair)
        calling_tool("mdata")["mdata"].mod["prot"].obs["extra"] = 1
        return self


@breaks("leaves_the_matrices")
class WritesIntoProteins(SoundPair):
    needs = ("counts",)

    def fit(self, *, pair: Pair) -> Self:
        super().fit(pair=pair)
        pair.target.counts.data += 1
        return self


@breaks("leaves_the_object_when_interrupted")
class SwallowsInterruptsOfPairs(SoundPair):
    def fit(self, *, pair: Pair) -> Self:
        try:
            return super().fit(pair=pair)
        except BaseException:  # noqa: BLE001
            self.axes_ = [np.zeros((pair.source.n_vars, 2)), np.zeros((pair.target.n_vars, 2))]
            return self


@breaks("repeats_without_labels")
class SeesTheLabelsOfAModality(SoundPair):
    def fit(self, *, pair: Pair) -> Self:
        self.shift_ = float(calling_tool("mdata")["mdata"].mod["rna"].obs["cell_type"].cat.codes.iloc[0])
        return super().fit(pair=pair)


@breaks("saves_no_training_data")
class KeepsTheProteins(SoundPair):
    def fit(self, *, pair: Pair) -> Self:
        self.depth_ = pair.target.depth
        return super().fit(pair=pair)


@breaks("saves_no_training_data")
class KeepsThePaired(SoundPair):
    def fit(self, *, pair: Pair) -> Self:
        self.both_ = pair.both
        return super().fit(pair=pair)


@breaks("follows_the_order_of_cells")
class CountsThePairs(SoundPair):
    def predict(self, *, pair: Pair) -> dict[str, Any]:
        return {"embedding": super().predict(pair=pair)["embedding"] + np.arange(pair.n_obs)[:, None]}


@breaks("ignores_the_order_of_genes")
class TakesTheFirstProtein(SoundPair):
    def predict(self, *, pair: Pair) -> dict[str, Any]:
        first = calling_tool("mdata")["mdata"].mod["prot"].X[:, 0].toarray()[pair.at[:, 1]]
        return {"embedding": np.where(pair.at[:, [1]] < 0, 0, first)}


@breaks("names_missing_inputs")
class HidesTheNeedsOfAPair(SoundPair):
    needs = ("counts",)

    def __post_init__(self) -> None:
        self.needs = ("lognorm",)


@breaks(MEMORY)
class AllPairsOfCells(SoundPair):
    def fit(self, *, pair: Pair) -> Self:
        self.largest_ = float(np.outer(pair.source.depth, pair.target.depth).max())
        return super().fit(pair=pair)


@breaks("runs")
class OneForAllTargets(SoundScreen):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {part: value[:, :1] for part, value in super().predict(cells=cells).items()}


@breaks("repeats_without_labels")
class PeeksAtTheTargets(SoundScreen):
    def fit(self, *, cells: Cells) -> Self:
        super().fit(cells=cells)
        self.change_ += float(calling_tool()["adata"].X.sum())
        return self


@breaks("ignores_the_order_of_genes")
class RanksTheGenes(SoundScreen):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        first = calling_tool()["adata"].var_names[0] == "gene_0"
        return {part: value + float(first) for part, value in super().predict(cells=cells).items()}


@breaks("repeats_without_labels")
class PeeksAtHiddenGenes(SoundPanel):
    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        super().fit(ref=ref, cells=cells)
        self.mean_ += float(calling_tool()["adata"].X.sum())
        return self


@breaks("runs")
class LosesACell(SoundPanel):
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"prediction": super().predict(cells=cells)["prediction"][1:]}


def failing(cls: type[Method], checks: list[str]) -> dict[str, str]:
    """What the checks say, by the check that says it."""
    try:
        check_method(cls, checks=checks)
    except CheckFailed as error:
        return {check: " ".join(found) for check, found in error.problems.items()}
    return {}


def test_every_check_has_a_method_that_fails_it():
    assert {check for check, _ in BROKEN} == set(CHECKS)


@pytest.mark.parametrize(("check", "cls"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_method_fails_its_check_and_no_other(check: str, cls: type[Method]):
    assert set(failing(cls, [name for name in CHECKS if name != MEMORY or check == MEMORY])) == {check}


@worded
class SoundSharesOfLogs(SoundShares):
    needs = ("lognorm", "ref.labels")
    recipe = Recipe(normalize_total={}, log1p={})


@pytest.mark.parametrize(
    "cls", [SoundShares, SoundSharesOfLogs, SoundPair, SoundScreen, SoundPanel], ids=lambda cls: cls.__name__
)
def test_a_sound_method_of_another_task_passes_all_checks(cls: type[Method]):
    check_method(cls)


def test_every_task_has_toys():
    assert set(TOYS) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_no_net_has_the_number_of_cells_of_a_toy_as_a_dimension(task: str):
    usual = {n for power in range(12) for n in (2**power, 3 * 2**power, 5 * 2**power, 10**power)}
    toys = TOYS[task](("counts",), ())
    assert toys.sizes >= {97}
    assert not {multiple for n in toys.sizes for multiple in (n, 2 * n, 3 * n)} & usual


def test_toys_of_deconvolution_have_other_cells_in_a_reference_of_149():
    toys = TOYS["deconvolve"](("counts",), ())
    assert (toys.old.n_obs, toys.new.n_obs, toys.learning["ref"].n_obs) == (97, 23, 149)
    assert toys.categories == ["type1", "type2", "type3"] == list(toys.old.obsm["true_prop"])


def test_relabelled_spots_keep_the_labels_of_the_reference_and_nothing_else_that_tells():
    toys = TOYS["deconvolve"](("counts",), ())
    spots, learning = toys.relabelled
    assert list(spots.obs) == []
    assert list(spots.obsm) == ["true_prop"]
    assert not np.array_equal(spots.obsm["true_prop"], toys.old.obsm["true_prop"])
    assert learning["ref"].obs.equals(toys.learning["ref"].obs[["cell_type"]])


def test_toys_of_screens_have_what_is_asked_and_the_first_new_cell_is_a_control():
    toys = TOYS["predict_perturbation"](("lognorm",), ())
    old, new, noisy = toys.old, toys.new, toys.relabelled[0]
    assert (old.n_obs, new.n_obs, new.obs["perturbation"].iloc[0]) == (97, 23, "control")
    asked = old.obs["perturbation"].isin(["gene_1+gene_2", "gene_3"]).to_numpy()
    assert toys.sizes == {97, int((~asked).sum())} and asked.sum() > 10
    unlike = (old.X != noisy.X).sum(axis=1).A1 > 0
    np.testing.assert_array_equal(unlike, asked)
    assert {"gene_1", "gene_2", "gene_0+gene_1"} <= set(old.obs["perturbation"][~asked])


def test_toys_of_panels_lack_some_genes_and_have_others_that_are_asked_all_the_same():
    toys = TOYS["predict_genes"](("lognorm",), ())
    old, new, noisy, learning = toys.old, toys.new, toys.relabelled[0], toys.learning
    assert (old.shape, new.shape, learning["ref"].shape) == ((97, 45), (23, 45), (149, 60))
    asked = old.var_names.isin(learning["genes"])
    assert (asked.sum(), len(learning["genes"])) == (5, 20)
    np.testing.assert_array_equal((old.X != noisy.X).sum(axis=0).A1 > 0, asked)


def test_toys_of_pairs_lack_either_modality_among_old_and_new_cells_and_the_first_new_one_none():
    toys = TOYS["joint_embed"](("counts",), ())
    for mdata in (toys.old, toys.new):
        there = np.column_stack([mdata.obsm["rna"], mdata.obsm["prot"]])
        assert {tuple(row) for row in there.tolist()} == {(True, True), (True, False), (False, True)}
    assert (toys.old.n_obs, toys.new.n_obs) == (97, 23)
    assert toys.new[:1].mod["rna"].n_obs == toys.new[:1].mod["prot"].n_obs == 1


def test_a_sound_method_passes_all_checks_in_three_small_fits():
    sizes = []

    @worded
    class Counted(Sound):
        def fit(self, *, cells: Cells) -> Self:
            sizes.append(cells.n_obs)
            return super().fit(cells=cells)

    check_method(Counted, "cluster")
    assert sizes == [97, 97, 97, 97, 1200, 2400]  # the last three are for the memory


@worded
class Net(TorchMethod):
    n_latent: int = 2
    training: Train = Train(batch_size=32)

    recipe = Recipe(normalize_total={}, log1p={})

    def net(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(self.n_vars_, self.n_latent), nn.Linear(self.n_latent, self.n_vars_)])

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.net_ = self.net().to(self.target)
        down, up = self.net_
        batches = Batches(cells, self.training.batch_size, rng=self.rng("batches"), device=self.target)

        def step(batch: Batch) -> torch.Tensor:
            return (up(down(batch.x)) - batch.x).square().mean()

        self.learn(step, self.net_, self.training, batches=batches)
        self.cut_ = float(np.quantile(self.embed(cells)[:, 0], 0.6))
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        z = self.embed(cells)
        return {"labels": z[:, 0] > self.cut_, "embedding": z}

    def embed(self, cells: Cells) -> np.ndarray:
        return self.map(lambda batch: self.net_[0](batch.x), cells)


def test_a_net_is_interrupted_while_it_trains_and_passes_all_checks():
    Net.__doc__ += "n_latent\n    Dimensions of the latent space.\n"
    trial = Trial(Net, "cluster")
    assert trial.knobs == {"epochs": 3}
    assert {check: found for check in CHECKS if (found := trial.problems(check))} == {}
    assert trial.shared.model.epochs_ == 3
    assert trial.interrupted.model.net_ is not None
    assert not hasattr(trial.interrupted.model, "epochs_")


def test_a_default_must_fit_its_annotation():
    @worded
    class DefaultOfAnotherType(Sound):
        more: float = "much"

    assert "more" in failing(DefaultOfAnotherType, ["constructs"])["constructs"]


def test_an_exempt_check_may_fail_and_must_not_pass():
    class Excused(SmallestFirst):
        exempt = {"largest_group_first": "The threshold is the user's."}

    class Pretends(Sound):
        exempt = {"largest_group_first": "The threshold is the user's."}

    assert failing(worded(Excused), [name for name in CHECKS if name != MEMORY]) == {}
    with pytest.raises(CheckFailed, match="largest_group_first: it is declared exempt and passes"):
        check_method(worded(Pretends), "cluster", checks=["largest_group_first"])


def test_the_message_names_method_check_and_problem():
    with pytest.raises(CheckFailed, match=r"SmallestFirst fails 1 .*\n  largest_group_first: the groups have \[39,"):
        check_method(SmallestFirst, "cluster", checks=["largest_group_first"])


def test_a_class_of_ones_own_is_a_method_of_the_tool():
    class Mine(Sound):
        pass

    adata = sd.datasets.toy_clusters(n_obs=50, n_vars=30, k=2, n_de=5)
    for method, key in ((Mine, "a class"), (Mine(share=0.8), "an instance")):
        sd.tl.cluster(adata, method=method, key_added=key)
    model = sd.fit("cluster", adata, Mine)
    sd.tl.cluster(adata, method=model, key_added="fitted")
    assert adata.obs["a class"].value_counts().tolist() == [30, 20]
    assert adata.obs["an instance"].value_counts().tolist() == [40, 10]
    assert adata.obs["fitted"].equals(adata.obs["a class"])
    assert adata.uns["scdance"]["cluster"]["a class"]["params"] == {"share": 0.6}


def test_a_method_of_scdance_is_checked_by_its_name():
    check_method("kmeans", knobs={"n_init": 1}, checks=["runs", "constructs"])


def test_the_example_in_the_docstring_runs():
    found = doctest.testmod(sys.modules[check_method.__module__])
    assert found == (0, len(doctest.DocTestFinder().find(check_method)[0].examples))
