"""scMM: a variational autoencoder of counts whose posterior is a mixture of one expert for each modality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Laplace

from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance.nn import CountHead, CountParameters, Dense
from scdance.pp import Recipe, chance_of_zero, expected_log1p
from scdance.train import PairedBatches, TorchMethod, Train, mean_counts, slices, target_of

from ._torch_predictor import TorchPredictor
from ._whole import ROLES

PER_CELL = 1e4  # counts of a cell as they enter, and in the unit of RNA
LOGIT = 12.0  # bound of what the scales of the posterior are made of
LEAST_SCALE = 1e-6
TINY = 1e-12  # sum of squares of depths that all are the same

PAPER = {
    "shrink": False,
    "warm_up": 50,
    "hidden_rna": 100,
    "hidden_other": 20,
    "n_layers": 1,
    "log_input": False,
    "dispersion": "entry",
    "weight": 1.0,
    "start_at_mean": False,
    "lr": 1e-4,
    "batch_size": 64,
    "epochs": 100,
    "patience": None,
}

Sides = dict[str, dict[str, Any]]


class Seen(NamedTuple):
    """Counts of a modality of some cells, (n, n_vars), and the depth of each relative to the median cell, (n,)."""

    counts: Tensor
    size: Tensor


class TwoExperts(TorchMethod):
    """Base of methods with a mixture of two experts: the knobs, the net, the bound on the likelihood.

    Parameters
    ----------
    n_latent
        Dimensions of the latent space.
    hidden_rna, hidden_other
        Width of the hidden layers of RNA, and of those of proteins and peaks.
    n_layers
        Number of hidden layers, in encoder and decoder.
    log_input
        Counts per 10,000 enter as their logarithm; else as they are.
    dispersion
        "gene": one dispersion for each feature; "entry": for each feature and cell.
    weight
        Weight of the likelihood of each feature of the target, against those of the source; None: so that both
        modalities weigh alike, however many features they have.
    warm_up
        Epochs over which the weight of the prior grows to 1, in equal steps from 0.
    start_at_mean
        Start each distribution at the mean of its feature.
    n_top_genes, n_top_peaks
        Genes and peaks with the largest deviance that are kept, of the source only where the target is predicted; None:
        all.
    """

    n_latent: int = 10
    hidden_rna: int = 100
    hidden_other: int = 100
    n_layers: int = 1
    log_input: bool = True
    dispersion: Literal["gene", "entry"] = "gene"
    weight: float | None = None
    warm_up: int = 30
    start_at_mean: bool = True
    n_top_genes: int | None = 5000
    n_top_peaks: int | None = 10_000

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return {
            "rna": Recipe(select_genes={"n_top": self.n_top_genes}),
            "prot": Recipe(),
            "atac": Recipe(select_genes={"n_top": self.n_top_peaks}),
        }

    def check(self) -> None:
        super().check()
        inside = {
            "n_layers": (self.n_layers >= 1, "at least 1"),
            "warm_up": (self.warm_up >= 0, "at least 0"),
            "weight": (self.weight is None or self.weight >= 0, "at least 0, or None"),
        }
        for name, (fits, text) in inside.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {text}."
                raise InputError(msg)

    def experts(self, sides: Sides) -> Experts:
        """The untrained net for both modalities: their ``n_vars`` and ``modality``, by role."""
        made = {
            role: Expert(
                side["n_vars"],
                [self.hidden_rna if side["modality"] == "rna" else self.hidden_other] * self.n_layers,
                self.n_latent,
                likelihood="zinb" if side["modality"] == "atac" else "nb",
                dispersion=self.dispersion,
                log_input=self.log_input,
            )
            for role, side in sides.items()
        }
        return Experts(made, self.n_latent)

    def bound(self, net: Experts, seen: dict[str, Seen], prior: float) -> Tensor:
        """Negative evidence lower bound of a batch, per cell, `prior` being the weight of the divergence.

        Σ over experts and modalities of −log p(x_m | z of the expert), one draw each, plus the divergences of the
        experts from the prior, over the number of experts.
        """
        posteriors = [net.expert(of).posterior(seen[of].counts) for of in ROLES]
        # both at once, so that a decoder's batch norm sees what its running statistics, which predict, are of
        z, loss = torch.cat([each.rsample() for each in posteriors]), torch.zeros((), device=net.prior.device)
        for to in ROLES:
            twice = Seen(*(torch.cat([part] * len(ROLES)) for part in seen[to]))
            loss = loss + self._weight(net, to) * net.expert(to).loss(z, twice)
        prior_now = net.prior_now()
        apart = [divergence(each, prior_now).sum(dim=1).mean() for each in posteriors]
        return loss + prior * torch.stack(apart).mean()

    def look_at(self, pair: Pair, rows: np.ndarray) -> None:
        """Note what the net is made for, by role: number of features, modality, depth of the median cell."""
        self.sides_: Sides = {}
        for role, cells, at in zip(ROLES, (pair.source, target_of(pair)), rows.T, strict=True):
            depth = float(np.median(cells.depth[at]))  # type: ignore[index]
            self.sides_[role] = {"n_vars": cells.n_vars, "modality": cells.modality, "depth": depth}

    def seen(self, cells: Cells, rows: Any, role: str = "source") -> Seen:
        """Counts and relative depth of some cells, where the net takes them."""
        counts, depth = cast("tuple[Any, Any]", (cells.counts, cells.depth))
        return Seen(self.tensor(counts[rows].toarray()), self.tensor(depth[rows] / self.sides_[role]["depth"]))

    def train_experts(
        self, net: Experts, pair: Pair, rows: np.ndarray, judge: Callable[[], float] | None, stage: str
    ) -> None:
        """Train on the pairs at `rows`, until `judge` sees no gain."""
        target, weight = target_of(pair), {"prior": 0.0}
        if self.start_at_mean:
            for role, cells, at in zip(ROLES, (pair.source, target), rows.T, strict=True):
                net.expert(role).head.start_at(mean_counts(cells.part(at)))

        def each_epoch(epoch: int) -> None:
            weight["prior"] = min(epoch / self.warm_up, 1.0) if self.warm_up else 1.0

        def step(batch: tuple[Seen, Seen]) -> Tensor:
            return self.bound(net, dict(zip(ROLES, batch, strict=True)), weight["prior"])

        batches = PairedBatches(
            lambda at: self.seen(pair.source, at),
            lambda at: self.seen(target, at, "target"),
            rows,
            self.training.batch_size,
            self.rng(f"{stage} batches"),
        )
        how: dict[str, Any] = {"batches": batches, "valid": judge, "each_epoch": each_epoch, "rng": batches.rng}
        self.learn(step, net, self.training, stage=stage, **how)

    def _weight(self, net: Experts, role: str) -> float:
        if role == "source":
            return 1.0
        return net.expert("source").n_vars / net.expert("target").n_vars if self.weight is None else self.weight


class Expert(nn.Module):
    """Encoder and decoder of a modality: to a Laplace posterior of its own, and from any to counts.

    Parameters
    ----------
    n_vars
        Number of features.
    hidden
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the latent space.
    likelihood, dispersion
        As in :class:`scdance.nn.CountHead`.
    log_input
        Whether counts enter as logarithms.
    """

    def __init__(
        self, n_vars: int, hidden: list[int], n_latent: int, *, likelihood: Any, dispersion: Any, log_input: bool
    ) -> None:
        super().__init__()
        self.n_vars, self.n_latent, self.log_input = n_vars, n_latent, log_input
        self.encoder = Dense([n_vars, *hidden], batch_norm=True)
        self.place, self.scale = nn.Linear(hidden[-1], n_latent), nn.Linear(hidden[-1], n_latent)
        self.decoder = Dense([n_latent, *hidden[::-1]], batch_norm=True)
        self.head = CountHead(hidden[0], n_vars, likelihood=likelihood, dispersion=dispersion)

    def posterior(self, counts: Tensor) -> Laplace:
        """Posterior of cells by this modality alone, (n, n_latent)."""
        x = PER_CELL * counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        h = self.encoder(torch.log1p(x) if self.log_input else x)
        return Laplace(self.place(h), scales(self.scale(h)))

    def forward(self, z: Tensor, size: Tensor) -> CountParameters:
        """Distribution of the counts of cells at these places, with these relative depths."""
        return self.head(self.decoder(z), size)  # type: ignore[no-any-return]

    def loss(self, z: Tensor, seen: Seen) -> Tensor:
        """Negative log-likelihood of the counts, summed over the features, the mean over the cells."""
        return self.n_vars * self.head.loss(self.decoder(z), seen.counts, seen.size)  # type: ignore[no-any-return]


class Experts(nn.Module):
    """The expert of each modality, by role, and the prior of the latent space, a Laplace distribution around 0."""

    def __init__(self, experts: dict[str, Expert], n_latent: int) -> None:
        super().__init__()
        self.experts = nn.ModuleDict(experts)
        self.prior = nn.Parameter(torch.zeros(n_latent))

    def expert(self, role: str) -> Expert:
        """The expert of a modality."""
        return self.experts[role]  # type: ignore[return-value]

    def prior_now(self) -> Laplace:
        """The prior, whose scales are learnt; they sum to `n_latent`."""
        return Laplace(torch.zeros_like(self.prior), scales(self.prior))


def scales(v: Tensor) -> Tensor:
    """Scales of a Laplace distribution, which share what `n_latent` ones have in all."""
    return v.clamp(-LOGIT, LOGIT).softmax(dim=-1) * v.shape[-1] + LEAST_SCALE


def divergence(q: Laplace, p: Laplace) -> Tensor:
    """Kullback–Leibler divergence of two Laplace distributions, in each dimension."""
    d = (q.loc - p.loc).abs()
    return (p.scale / q.scale).log() + (q.scale * (-d / q.scale).exp() + d) / p.scale - 1


class ScMM(TwoExperts, TorchPredictor):
    """Decode the target's counts from where an encoder of the source's counts places a cell [Minoura2021]_.

    A variational autoencoder of both modalities at once. Each has an encoder, its expert, and the posterior of a cell
    is the mixture of the two; a decoder of each modality gives the distribution of its counts, negative binomial, for
    peaks with added zeros. All four ways are trained, from each expert to each modality. The answer is the expected
    value, in the unit of the target, of the distribution that the decoder of the target gives at the place that the
    expert of the source gives the cell.

    When to use
    -----------
    Raw counts of both modalities, when a distribution of counts and one latent space are wanted beside the answer.

    When not
    --------
    For the closest predictions: ten latent dimensions that explain both modalities leave much of either out.

    Differs from the paper
    ----------------------
    Expected values are answered, where the code draws counts from the distribution and so adds its variance to every
    error. They are those of the normalised count: the logarithm of the expected count would be too high. The
    dispersion does not grow with depth, and is that of a feature. Both modalities weigh alike, where a sum over
    features is ruled by the larger; counts enter as logarithms. Training ends by the likelihood of the target, given
    the source, of cells that were held out. Depth of the target is regressed on that of the source.
    """

    training: Train = Train(epochs=60, lr=3e-3, batch_size=256, patience=10, optimizer="amsgrad")

    cite = "Minoura2021"
    needs = ("counts",)
    presets = {
        "paper": PAPER,
        "dance": PAPER | {"n_layers": 2, "n_top_genes": 10_000},
    }

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        target = target_of(pair)
        self.look_at(pair, rows)
        sides = zip((pair.source, target), rows.T, strict=True)
        self.depths_ = line(*(np.log(np.maximum(cells.depth[at], 1)) for cells, at in sides))  # type: ignore[index]
        self.unit_ = target.modality if target.prep.states else "counts"

    def one_net(self) -> nn.Module:
        return self.experts(self.sides_)

    def train_one(self, net: Experts, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        target = target_of(pair)

        def judge() -> float:
            """Negative log-likelihood of the target at the places that its source gives, per entry."""
            total = 0.0
            for here in slices(len(valid)):
                at = valid[here]
                z = net.expert("source").posterior(self.seen(pair.source, at[:, 0]).counts).mean
                total += len(at) * float(net.expert("target").loss(z, self.seen(target, at[:, 1], "target")))
            return total / (len(valid) * target.n_vars)

        self.train_experts(net, pair, rows, judge if len(valid) else None, stage)

    def say(self, net: Experts, x: Seen) -> Tensor:
        slope, start = self.depths_.tolist()
        depth = (start + slope * (x.size * self.sides_["source"]["depth"]).clamp(min=1).log()).exp()
        z = net.expert("source").posterior(x.counts).mean
        found = net.expert("target")(z, depth / self.sides_["target"]["depth"])
        return torch.from_numpy(in_unit(self.unit_, found, depth.cpu().numpy()))


def line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope, in [0, 1], and intercept of the line of least squares of `y` on `x`, (2,)."""
    off = x - x.mean()
    slope = float(np.clip((off * y).sum() / max((off**2).sum(), TINY), 0, 1))
    return np.array([slope, y.mean() - slope * x.mean()])


def in_unit(unit: str | None, found: CountParameters, depth: np.ndarray) -> np.ndarray:
    """Expected values of counts in the unit of a modality, (n, n_features) float32.

    Of log(1 + counts per 10,000) for RNA, of the centred log ratio for proteins, around the expected logarithms of
    their cell, and the probability of a count for peaks; `unit` "counts": the means.
    """
    mean, theta = (part.cpu().numpy() for part in found[:2])
    if unit == "rna":
        return expected_log1p(mean, theta, PER_CELL / depth[:, None])
    if unit == "prot":
        centre = expected_log1p(mean, theta).mean(axis=1, keepdims=True)
        return expected_log1p(mean, theta, np.exp(-centre))
    if unit == "atac":
        added = 0.0 if found.logit is None else found.logit.sigmoid().cpu().numpy()
        return ((1 - added) * (1 - chance_of_zero(mean, theta))).astype(np.float32)
    return mean
