"""What the methods with a clustering count autoencoder share: the model, both stages of training, its predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.graph import kmeans, mixture
from scdance.nn import DEC, CountHead, Dense, dec_loss, target_distribution
from scdance.pp import Recipe
from scdance.train import Batch, Batches, TorchMethod, Train, mean_counts, relative_depth, split

from ._centers import ByCenters, means, shrunk

ROWS = 4096  # cells whose differences from all centres are held at once
VALID_SHARE = 0.1  # of the cells, held out when pre-training may stop early


class CountClustering(ByCenters, TorchMethod):
    """A denoising count autoencoder whose latent space and cluster centres are trained together.

    With batches given, both encoder and decoder are told the batch of each cell, so that the latent space need not
    hold it; a batch that was not there in training counts as the average one.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    encoder
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the latent space.
    sigma
        Standard deviation of the noise that is added to the standardised expression in training.
    gamma
        Weight of the clustering loss beside the reconstruction; 0 trains the autoencoder only.
    likelihood
        "nb": negative binomial with a dispersion per gene; "zinb": zero-inflated, with a dispersion and an
        inflation per entry.
    init
        First centres when the number of clusters is given: "kmeans" or the means of a Gaussian "mixture".
        When it is estimated, they are the means of the partition that was chosen.
    shrink
        For the first partition, a cell at distance d from the middle is put at d^(1 − shrink), so that no centre is
        spent on a few far cells; 0 leaves the distances as they are, 1 leaves directions only.
    n_init
        Starts of the first partition; the best is kept.
    start_at_mean
        Start the predicted mean at the mean of each gene instead of at 1.
    pretraining
        autoencoder alone; with a patience, a tenth of the cells is held out to judge
    training
        autoencoder and centres; `tol` ends it, the patience has no part in it
    tol
        Training ends when a smaller share of the cells changes its cluster from one epoch to the next.
    """

    n_top_genes: int | None = 2000
    encoder: tuple[int, ...] = (256, 64)
    n_latent: int = 32
    sigma: float = 2.0
    gamma: float = 1.0
    likelihood: Literal["nb", "zinb"] = "nb"
    init: Literal["kmeans", "mixture"] = "kmeans"
    shrink: float = 0.25
    n_init: int = 20
    start_at_mean: bool = True
    pretraining: Train = Train(epochs=None, steps=1700, batch_size=64, optimizer="amsgrad")
    training: Train = Train(epochs=30, lr=1.0, optimizer="adadelta")
    tol: float = 1e-3

    needs = ("counts",)
    uses = ("batch",)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            filter_genes={"min_counts": 1},
            normalize_total={},
            log1p={},
            select_genes={"n_top": self.n_top_genes},
            center_scale={},
        )

    def net(self) -> nn.Module:
        sizes = (self.n_vars_, *self.encoder, self.n_latent)
        return _Autoencoder(sizes, self.likelihood, self.n_batches_, getattr(self, "n_clusters_", None))

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.n_batches_ = len(cells.batch_names or ())
        if self.n_batches_ > cells.n_obs // 2:
            msg = (
                f"{self.n_batches_} batches for {cells.n_obs} cells say nothing of what the cells of a batch share. "
                "Pass the column that names the batch of each cell as `batch_key=`, or leave it out."
            )
            raise InputError(msg)
        self.net_ = self.net().to(self.target)
        if self.start_at_mean:
            self.net_.head.start_at(mean_counts(cells))
        size = relative_depth(cells, self.target)
        self._pretrain(cells, size)
        centers = self._first_centers(self._latent(cells))
        self.n_clusters_ = len(centers)
        self.net_.dec = DEC(torch.from_numpy(centers)).to(self.target)
        self._train(cells, size)
        self._number_by_size(cells)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        z, log_q = self._assigned(cells)
        q = log_q.exp().cpu().numpy()
        return {"labels": q.argmax(axis=1), "embedding": z.cpu().numpy(), "proba": q, "score": q.max(axis=1)}

    def _pretrain(self, cells: Cells, size: Tensor) -> None:
        """Train the autoencoder alone."""
        how, rng, rows, valid = self.pretraining, self.rng("pretraining"), None, None
        if how.patience is not None:
            rows, held_out = split(cells.n_obs, VALID_SHARE, rng)
            judges = self._batches(cells, held_out, how.batch_size)

            def valid() -> float:
                losses = [float(self._reconstruction(batch, size, sigma=0)) for batch in judges]
                return float(np.mean(losses))

        self.learn(
            lambda batch: self._reconstruction(batch, size, self.sigma),
            self.net_,
            how,
            stage="pretraining",
            batches=self._batches(cells, rows, how.batch_size, rng),
            valid=valid,
            rng=rng,
        )

    def _train(self, cells: Cells, size: Tensor) -> None:
        """Train autoencoder and centres together, until the labels settle."""
        how, rng = self.training, self.rng("training")
        batches = self._batches(cells, None, how.batch_size, rng)
        memory: dict[str, Tensor] = {"changed": torch.empty(0)}
        target = torch.empty(0)

        def refresh(epoch: int) -> str | None:
            nonlocal target
            _, log_q = self._assigned(cells)
            target = target_distribution(log_q.exp())
            labels = log_q.argmax(dim=1)
            before, memory["labels"] = memory.get("labels"), labels
            if epoch == 0 or before is None:
                return None
            changed = (labels != before.to(labels)).float().mean()
            memory["changed"] = torch.cat([memory["changed"], changed.cpu().reshape(1)])
            return f"fewer than {self.tol:g} of the labels changed" if changed < self.tol else None

        further = self._further_loss(cells, n_steps=len(batches), rng=rng)

        def step(batch: Batch) -> Tensor:
            loss = self._reconstruction(batch, size, self.sigma)
            if further is not None:
                loss = loss + further()
            if self.gamma == 0:
                return loss
            log_q = self.net_.dec(self.net_.encoder(batch.x, batch.batch))  # of the cell without noise
            return loss + self.gamma * dec_loss(log_q, target[batch.rows])

        self.learn(
            step,
            self.net_,
            how,
            batches=batches,
            each_epoch=refresh,
            look=lambda: self.predict(cells=cells),
            rng=rng,
            memory=memory,
        )
        self.history_["training_changed"] = memory["changed"].numpy()

    def _further_loss(self, cells: Cells, *, n_steps: int, rng: np.random.Generator) -> Callable[[], Tensor] | None:
        """What a method adds to the loss of each of the `n_steps` of an epoch, if anything."""
        return None

    def _reconstruction(self, batch: Batch, size: Tensor, sigma: float) -> Tensor:
        """Negative log-likelihood of the counts, predicted from noisy expression."""
        noisy = batch.x + sigma * torch.randn_like(batch.x) if sigma else batch.x
        hidden = self.net_.decoder(self.net_.encoder(noisy, batch.batch), batch.batch)
        return self.net_.head.loss(hidden, batch.counts, size[batch.rows])

    def _first_centers(self, z: np.ndarray) -> np.ndarray:
        """Centres of a first partition of the latent space, (n_clusters, n_latent)."""
        choice = self._chosen(z)
        if choice is not None:
            return means(z, choice.labels)
        first = kmeans if self.init == "kmeans" else mixture
        labels, centers, *_ = first(
            shrunk(z, self.shrink), self.n_clusters, n_init=self.n_init, random_state=self.random_state
        )
        for j in np.unique(labels):
            centers[j] = z[labels == j].mean(axis=0)
        return centers

    def _number_by_size(self, cells: Cells) -> None:
        """Sort the centres so that cluster 0 is the largest."""
        labels, centers = self._assigned(cells)[1].argmax(dim=1).cpu().numpy(), self.net_.dec.centers
        centers.data = centers.data[self._order(labels, self.n_clusters_)]

    def _latent(self, cells: Cells) -> np.ndarray:
        return self.map(lambda batch: self.net_.encoder(batch.x, batch.batch), cells)

    def _assigned(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Latent space and log soft assignment of all cells, without noise."""
        z = torch.from_numpy(self._latent(cells)).to(self.target)
        with torch.no_grad():
            return z, torch.cat([self.net_.dec(some) for some in z.split(ROWS)])

    def _batches(
        self, cells: Cells, rows: np.ndarray | None, size: int, rng: np.random.Generator | None = None
    ) -> Batches:
        return Batches(cells, size, rng=rng, rows=rows, counts=True, device=self.target)


class _Autoencoder(nn.Module):
    """Encoder, mirrored decoder and the heads of the counts; `dec` holds the centres once there are some."""

    def __init__(
        self, sizes: tuple[int, ...], likelihood: Literal["nb", "zinb"], n_batches: int, n_clusters: int | None
    ) -> None:
        super().__init__()
        n_vars, *hidden, n_latent = sizes
        self.encoder = Dense(sizes, last="none", n_covariates=n_batches)
        self.decoder = Dense([n_latent, *reversed(hidden)], n_covariates=n_batches)
        dispersion = "gene" if likelihood == "nb" else "entry"
        self.head = CountHead(([n_latent, *reversed(hidden)])[-1], n_vars, likelihood=likelihood, dispersion=dispersion)
        if n_clusters is not None:
            self.dec = DEC(torch.zeros(n_clusters, n_latent))
