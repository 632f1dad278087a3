"""DAVAE: an autoencoder whose decoder is told the batch, and an adversary that looks for the batch in the space."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError, listed, warn, whole_number
from scdance._core.cells import Cells
from scdance.nn import BatchVAE
from scdance.pp import batches_alike, group_moments, shared_variation
from scdance.train import Batch, Batches, TorchMethod, Train

from ._integrator import Integrator

PAPER: dict[str, Any] = {
    "hidden": (128, 64, 32),
    "n_latent": 5,
    "condition": "decoder",
    "adversary": 1.0,
    "ramp": False,
    "hide": 0.0,
    "epochs": 20,
    "lr": 0.01,
    "batch_size": 256,
}


class DAVAE(Integrator, TorchMethod):
    """Leave what batches have of their own to the decoder, and hide the rest from an adversary [Hu2022]_.

    A variational autoencoder puts cells into a space from which their expression is restored. The decoder is told the
    batch, and each gene has an offset in each batch behind it, so that the space need not hold what sets batches apart.
    What is left of the batch in the space is sought by an adversary, and unlearnt by the encoder. The encoder itself
    does not know the batch, so new cells of any batch are placed without training.

    When to use
    -----------
    Batches that differ more than the types within them, of which some types may be missing; cells that come later;
    corrected expression (``corrected=True``). On simulated batches that change genes as much as types do, it finds the
    types where ``"harmony"`` does not.

    When not
    --------
    Batches without any type in common, unless you say ``shared_types=False``: they are kept apart by themselves only
    where their cells do not vary along the same genes, and real cells mostly do, by the cell cycle alone. Where seconds
    matter, or batches differ little: ``"harmony"``.

    Differs from the paper
    ----------------------
    Beside the batch as an input of the decoder, each gene has an offset in each batch, which starts at its mean there.
    Encoder and decoder have one hidden layer, not three, and half of the expression is hidden from the encoder in
    training. The adversary has a thousandth of the published weight: from a twentieth on it costs types, since the
    encoder outruns it. Genes vary within most batches, and depths are brought to 10,000 counts, not to a million. The
    variance σ² is the mean squared error of an entry, of which the printed update lacks the number of genes. All
    batches are restored; of `reconstruct="reference"`, which is in the authors' code alone, we leave out the divergence
    of the other batches, which would draw them to one place.

    Parameters
    ----------
    hidden
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the space.
    condition
        How the nets are told the batch: by an "offset" of each gene behind the decoder; as input of the
        "decoder"; in both ways, "offset_decoder"; as input of "both" nets, where new batches are worse off; "none" is
        told.
    shared_types
        Whether batches hold types in common, of which the offsets take it that the batch means differ by the batch
        alone. None: batches do that vary along the same genes (:func:`scdance.pp.shared_variation`), other batches do
        not, and are kept apart with a warning.
    adversary
        Weight λ of the adversary, ≥ 0. As in the authors' code it counts once for each gene: the loss of a cell has
        λ · n_genes times the cross-entropy of its batch. 0: there is no adversary.
    n_adversary
        Units of the hidden layer of the adversary.
    ramp
        Let the weight of the adversary grow over the training, as 2 / (1 + exp(−10 t)) − 1 of the part t that is over.
    reconstruct
        Whose expression is restored: that of "all" batches; or of the common batch alone, the "reference" into whose
        space the encoder then maps the others, with nothing but the adversary between them.
    common
        Name of the batch as of which corrected expression is; None: that with most cells.
    corrected
        Give the expected expression of each cell in the common batch, too.
    hide
        Part of the expression that the encoder is not shown in training, in [0, 1), so that few cells are not learnt
        by heart.
    dropout
        Part of the units of each hidden layer that is dropped in training, in [0, 1).
    training
        all nets together; the patience has no part in it
    """

    hidden: tuple[int, ...] = (128,)
    n_latent: int = 10
    condition: Literal["offset", "decoder", "offset_decoder", "both", "none"] = "offset_decoder"
    shared_types: bool | None = None
    adversary: float = 0.001
    n_adversary: int = 16
    ramp: bool = True
    reconstruct: Literal["all", "reference"] = "all"
    common: str | None = None
    corrected: bool = False
    hide: float = 0.5
    dropout: float = 0.1
    training: Train = Train(epochs=None, steps=400, lr=5e-3, batch_size=128)

    cite = "Hu2022"
    asks = ("corrected",)
    presets = {
        "paper": PAPER,
        "cord_blood_and_marrow": PAPER | {"adversary": 5.0, "epochs": 1, "batch_size": 3000},
        "mouse_atlas": PAPER | {"n_latent": 16},
        "rna_and_chromatin": PAPER | {"hidden": (128, 64, 32, 16), "n_latent": 8, "adversary": 6.0, "epochs": 60},
        "two_slices": PAPER | {"adversary": 0.5, "epochs": 25},
        "slice_and_cells": PAPER | {"adversary": 3.0, "epochs": 45},
        "slice_and_types": PAPER | {"n_latent": 32, "adversary": 5.0, "epochs": 100},
    }

    def check(self) -> None:
        super().check()
        whole_number(self.n_latent, "n_latent", least=1)
        whole_number(self.n_adversary, "n_adversary", least=1)
        wrong = {
            "hidden": (not self.hidden or min(self.hidden) < 1, "at least one layer of at least one unit"),
            "adversary": (self.adversary < 0, "at least 0, which leaves the adversary out"),
            "hide": (not 0 <= self.hide < 1, "at least 0 and below 1"),
            "dropout": (not 0 <= self.dropout < 1, "at least 0 and below 1"),
        }
        for name, (is_wrong, wanted) in wrong.items():
            if is_wrong:
                msg = f"{name}={getattr(self, name)!r}, but it must be {wanted}."
                raise InputError(msg)

    def check_cells(self, cells: Cells) -> None:
        names = cells.batch_names or []
        if self.common is not None and self.common not in names:
            msg = f"common={self.common!r} is no batch; there are {listed(names)}."
            raise InputError(msg)

    def net(self) -> nn.Module:
        return BatchVAE(
            self.n_genes_,
            self.n_batches_,
            hidden=self.hidden,
            n_latent=self.n_latent,
            condition=self.condition,
            hide=self.hide,
            dropout=self.dropout,
            adversary=self.adversary,
            n_adversary=self.n_adversary,
        )

    def learn_space(self, cells: Cells) -> None:
        x: Any = cells.x
        batch: Any = cells.batch
        names = list(cells.batch_names or ())
        self.n_genes_, self.n_batches_ = cells.n_vars, len(names)
        self.common_ = int(np.bincount(batch).argmax()) if self.common is None else names.index(self.common)
        net: Any = self.net()
        groups = self._groups(x, batch, names)
        net.start_at(torch.from_numpy(group_moments(x, batch, len(names)).mean), torch.from_numpy(groups))
        self.net_ = net.to(self.target)
        how, rng = self.training, self.rng("training")
        batches = Batches(cells, how.batch_size, rng=rng, device=self.target)
        only = self.common_ if self.reconstruct == "reference" else None
        total = how.n_epochs(len(batches)) * len(batches) if self.ramp else None

        def step(some: Batch) -> Tensor:
            return self.net_.loss(some.x, some.batch, only=only, total=total)  # type: ignore[no-any-return]

        self.learn(step, self.net_, how, batches=batches, look=lambda: {"embedding": self.place(cells)}, rng=rng)
        self.notes_ = {"noise": float(self.net_.variance), "n_groups": int(groups.max()) + 1}

    def _groups(self, x: Any, batch: np.ndarray, names: list[str]) -> np.ndarray:
        """Group of each batch, (n_batches,): between groups nothing is merged by their means."""
        if self.shared_types is not None or self.condition in ("decoder", "both", "none") or len(names) < 2:
            return np.arange(len(names)) if self.shared_types is False else np.zeros(len(names), dtype=int)
        groups = batches_alike(shared_variation(x, batch, len(names), random_state=self.random_state))
        if groups.max() > 0:
            listed_groups = "; ".join(", ".join(np.array(names)[groups == each]) for each in range(groups.max() + 1))
            warn(
                f"These batches do not vary along the same genes, so they are taken to share no types, and are kept "
                f"apart: {listed_groups}. If they do share types, say shared_types=True."
            )
        return groups

    def place(self, cells: Cells) -> np.ndarray:
        return self.map(lambda some: self.net_.encode(some.x, some.batch).mean, cells)

    def expression(self, cells: Cells) -> np.ndarray:
        def in_common(some: Batch) -> Tensor:
            z = self.net_.encode(some.x, some.batch).mean
            return self.net_.decode(z, torch.full((len(z),), self.common_, device=z.device))  # type: ignore[no-any-return]

        return self.map(in_common, cells)
