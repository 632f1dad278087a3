"""The base of matchers with a net for each modality that learn to tell the true pair from all others of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells, Pair
from scdance.nn import Dense
from scdance.pp import Recipe
from scdance.train import PairedBatches, TorchMethod, Train, components, recipes_to_reduce, scores, slices, target_of

from ._matcher import Matcher

JUDGES = 2048  # pairs at most among which the true one is to be found in validation
STEEPEST = 4.6  # logarithm of the largest factor of the cosines, 100


class Contrastive(Matcher, TorchMethod):
    """Base of contrastive matchers.

    Parameters
    ----------
    n_source, n_target
        Components of each modality, fewer where there are fewer cells; where a modality has no more features, or
        with None, the features themselves.
    hidden_source, hidden_target
        Widths of the hidden layers of the net of each modality.
    dropout_source, dropout_target
        Part of the units that is dropped after each of them in training, in [0, 1).
    n_latent
        Dimensions of the common space.
    log_scale
        Logarithm of what cosines are multiplied by before the soft-max in training, where that starts.
    learn_scale
        Whether it is learnt.
    n_top_genes, n_top_peaks
        Genes or peaks with the largest deviance that are kept; None: all.
    """

    n_source: int | None = 128
    n_target: int | None = 128
    hidden_source: tuple[int, ...] = (512, 512)
    hidden_target: tuple[int, ...] = (512, 512)
    dropout_source: tuple[float, ...] = (0.5, 0.5)
    dropout_target: tuple[float, ...] = (0.5, 0.5)
    n_latent: int = 64
    log_scale: float = 2.74
    learn_scale: bool = True
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000
    training: Train = Train(epochs=200, lr=1e-3, batch_size=1024, patience=10, weight_decay=1e-2, optimizer="adamw")

    exempt = {"memory_grows_with_the_cells": "each cell of a batch is compared with all of it"}

    # ------------------------------------------------------------------ what a subclass may write anew

    def learn_inputs(self, pair: Pair, rows: np.ndarray) -> None:
        """Learn what :meth:`inputs` needs from the pairs that teach."""
        self.scaling_ = {}
        for role, x in (("source", self.scores(pair.source, "source", rows[:, 0])),
                        ("target", self.scores(target_of(pair), "target", rows[:, 1]))):  # fmt: skip
            self.scaling_[role] = np.stack([x.mean(axis=0), np.full(x.shape[1], max(float(x.std()), 1e-6))])

    def inputs(self, x: np.ndarray, role: str) -> np.ndarray:
        """What a net takes of the scores of cells, (n_obs, …) float32."""
        mean, sd = self.scaling_[role]
        return ((x - mean) / sd).astype(np.float32)  # type: ignore[no-any-return]

    def pair_net(self, widths: dict[str, int]) -> nn.Module:
        """Both nets, by the number of scores of each modality; an instance of :class:`Nets`."""
        return Nets(self, widths)

    def further_loss(self, net: Any, seen: dict[str, Tensor], places: dict[str, Tensor]) -> Tensor | float:
        """What is added to the contrastive loss, of the inputs of a batch and where they lie."""
        return 0.0

    # ------------------------------------------------------------------ what all share

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def check(self) -> None:
        super().check()
        whole_number(self.n_latent, "n_latent", least=2)
        for side in ("source", "target"):
            hidden, dropout = getattr(self, f"hidden_{side}"), getattr(self, f"dropout_{side}")
            if len(hidden) != len(dropout) or not all(0 <= part < 1 for part in dropout):
                msg = (
                    f"hidden_{side}={hidden!r} and dropout_{side}={dropout!r}, but each layer needs a part of its own, "
                    "at least 0 and below 1."
                )
                raise InputError(msg)

    def net(self) -> nn.Module:
        return self.pair_net({role: len(loadings) for role, loadings in self.loadings_.items()})

    def scores(self, cells: Cells, role: str, rows: Any) -> np.ndarray:
        """Scores of cells in the components of their modality, (n_obs, n_components) float32."""
        return scores(cells, rows, self.loadings_[role])

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        sides = (("source", pair.source, self.n_source, 0), ("target", target_of(pair), self.n_target, 1))
        self.loadings_ = {
            role: components(cells, rows[:, side], n, random_state=self.random_state) for role, cells, n, side in sides
        }
        self.learn_inputs(pair, rows)
        self.net_ = net = self.net().to(self.target)
        seen = {role: self._seen(cells, role, rows[:, side]) for role, cells, _, side in sides}
        some = self.some(valid, JUDGES)
        judged = {role: self._seen(cells, role, some[:, side]) for role, cells, _, side in sides}

        def step(batch: tuple[Tensor, Tensor]) -> Tensor:
            given = dict(zip(("source", "target"), batch, strict=True))
            places = {role: net(x, role) for role, x in given.items()}
            return net.contrast(places) + self.further_loss(net, given, places)

        def judge() -> float:
            net.eval()
            loss = float(net.contrast({role: net(x, role) for role, x in judged.items()}))
            net.train()
            return loss

        at = np.repeat(np.arange(len(rows))[:, None], 2, axis=1)
        batches = PairedBatches(
            seen["source"].__getitem__, seen["target"].__getitem__, at, self.training.batch_size, self.rng("batches")
        )
        net.train()
        self.learn(step, net, self.training, batches=batches, valid=judge if len(valid) > 1 else None, rng=batches.rng)
        net.eval()

    def places(self, cells: Cells, role: str) -> np.ndarray:
        with torch.no_grad():
            some = [self.net_(self._seen(cells, role, here), role).cpu().numpy() for here in slices(cells.n_obs)]
        return np.concatenate(some)

    def _seen(self, cells: Cells, role: str, rows: Any) -> Tensor:
        return torch.from_numpy(self.inputs(self.scores(cells, role, rows), role)).to(self.target)


class Nets(nn.Module):
    """A net for each modality, which puts cells on the unit sphere of one space, and the scale of the cosines."""

    def __init__(self, model: Contrastive, widths: dict[str, int], activation: str = "gelu") -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        for role, width in widths.items():
            sizes = [width, *getattr(model, f"hidden_{role}")]
            layers: list[nn.Module] = [
                Dense([n_in, n_out], activation=activation, dropout=part)
                for n_in, n_out, part in zip(sizes[:-1], sizes[1:], getattr(model, f"dropout_{role}"), strict=True)
            ]
            self.encoders[role] = nn.Sequential(*layers, nn.Linear(sizes[-1], model.n_latent))
        self.log_scale = nn.Parameter(torch.tensor(model.log_scale), requires_grad=model.learn_scale)

    def forward(self, x: Tensor, role: str) -> Tensor:
        """Places of cells, (n, n_latent), rows of length 1."""
        return functional.normalize(self.encoders[role](x), dim=1)

    def contrast(self, places: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of the true partner among all of the batch, the sum of both directions."""
        logits = self.log_scale.clamp(max=STEEPEST).exp() * places["source"] @ places["target"].T
        true = torch.arange(len(logits), device=logits.device)
        return functional.cross_entropy(logits, true) + functional.cross_entropy(logits.T, true)
