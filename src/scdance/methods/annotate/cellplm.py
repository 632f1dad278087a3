"""CellPLM as an annotator: a transformer over cells, from nothing or from a model that saw many others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.methods.embed.cellplm import CellModel, check_vocabulary, warm_cosine
from scdance.nn import CellEncoder, Shape, bilevel_mask
from scdance.train import Corpus, Reader, Train, sentences

from ._annotator import Annotator


class CellPLM(Annotator, CellModel):
    """Annotate by a transformer over the cells of a sample, which may have been trained on other cells [Wen2024]_.

    From what a cell has become among the others a small net tells its type. With `init` the transformer begins as it
    was trained to restore hidden counts of many cells; all of it then goes on learning. Some genes of the reference
    are hidden in training, as they were then.

    When to use
    -----------
    With a model of cells like these, and few labels.

    When not
    --------
    From nothing on thousands of labelled cells, where ``"svm"`` and ``"actinn"`` are as good and faster. For a few
    cells, since a cell is what it is among others.

    Differs from the paper
    ----------------------
    The network is smaller, there are fewer steps, and all of it learns at one rate. Genes of the reference that the
    model does not know take part, beginning from nothing.

    Parameters
    ----------
    masked_cells, masked_genes
        Share of the cells, and of their genes, that is hidden in a step, in [0, 1); 0: nothing is.
    training
        each step sees `batch_size` cells, which is also how many hear each other afterwards
    """

    n_top_genes: int | None = None
    masked_cells: float = 0.75
    masked_genes: float = 0.25
    training: Train = Train(
        epochs=None, steps=200, lr=5e-4, batch_size=512, weight_decay=1e-4, clip=2.0, optimizer="adamw"
    )

    cite = "Wen2024"
    needs = ("counts", "ref.labels")

    def check(self) -> None:
        super().check()
        for name in ("masked_cells", "masked_genes"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0 and below 1."
                raise InputError(msg)

    def check_cells(self, cells: Cells) -> None:
        super().check_cells(cells)
        if self.is_fitted:
            n_there = len(self.genes_) if cells.present is None else int(cells.present[self.genes_].sum())
            check_vocabulary(n_there, cells.var_names[self.genes_])

    def net(self) -> nn.Module:
        return _Typist(self.sizes, self.n_types_)

    def teach(self, cells: Cells, *, stage: str) -> None:
        self.n_types_, self.normalized_ = len(cells.categories), True
        begun, rng = self.begin(cells.var_names), self.rng(stage)
        if begun is not None:
            self.normalized_ = begun.model.normalize
        corpus = Corpus([cells], self.training.batch_size, rng, self.target, normalized=self.normalized_)
        self.net_ = self.net()
        self.net_.encoder.origin.copy_(torch.from_numpy(corpus.mean()))
        if begun is not None:
            begun.into(self.net_.encoder, "encoder.")
        self.net_.to(self.target)
        labels = torch.from_numpy(cells.labels.astype(np.int64)).to(self.target)

        def step(group: tuple[int, np.ndarray]) -> Tensor:
            x = corpus.read(group).x
            if self.masked_cells and self.masked_genes:
                hidden = bilevel_mask(tuple(x.shape), self.masked_cells, self.masked_genes, rng)
                x = x.masked_fill(torch.from_numpy(hidden).to(x.device), 0)
            return cross_entropy(self.net_(x), labels[group[1]])

        self.learn(step, self.net_, self.training, stage=stage, batches=corpus, rng=rng, pace=warm_cosine)

    @torch.no_grad()
    def logits(self, cells: Cells) -> np.ndarray:
        self.net_.eval()
        out = np.empty((cells.n_obs, self.n_types_), dtype=np.float32)
        reader = Reader(cells, self.target, normalized=self.normalized_)
        for rows in sentences(cells, self.training.batch_size, self.rng("contexts")):
            read = reader.read(rows)
            out[rows] = self.net_(read.x, read.genes).cpu().numpy()
        return out


class _Typist(nn.Module):
    """From the cells of a sample to scores of types."""

    def __init__(self, shape: Shape, n_types: int) -> None:
        super().__init__()
        self.encoder = CellEncoder(shape)
        self.head = nn.Sequential(
            nn.Linear(shape.hidden, shape.n_latent), nn.Dropout(shape.dropout), nn.Linear(shape.n_latent, n_types)
        )

    def forward(self, x: Tensor, genes: Tensor | None = None) -> Tensor:
        """Scores, (n_obs, n_types)."""
        return self.head(self.encoder(x, None, genes))  # type: ignore[no-any-return]
