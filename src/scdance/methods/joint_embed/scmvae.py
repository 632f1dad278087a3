"""scMVAE: a variational autoencoder of counts whose posterior is the product of what each modality says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError, whole_number
from scdance._core.cells import Pair
from scdance.graph import mixture
from scdance.nn import Dense
from scdance.train import Log, PairedBatches, Train, mean_counts, slices, target_of

from ._counts import STANDARD, CountJoint, Normal, Posterior, Seen, Shares, divergence
from ._joint import ROLES

LIBRARY = 128  # width of the hidden layer behind a library
CELLS_PER_COMPONENT = 10  # of the mixture, at least
LEAST_VARIANCE = 1e-3  # of a component, when it starts
TINY = 1e-9  # cells in a component, and its weight

PAPER = {
    "encode": "features",
    "hidden": (1024, 128, 128),
    "n_latent": 22,
    "likelihood": "zinb",
    "rna_weight": 4.0,
    "alone": 0.0,
    "pretrain_epochs": 0,
    "warm_up": 200,
    "epochs": 500,
    "lr": 1e-3,
    "weight_decay": 1e-6,
    "batch_size": 64,
    "patience": None,
}


class ScMVAE(CountJoint):
    """Place cells where what both modalities say of them agrees, under a mixture of normal distributions [Zuo2021]_.

    A variational autoencoder of the counts of both modalities. The encoder of each says where a cell lies, and how
    surely; the posterior is the product of what they say with a standard normal distribution, so that the surer one
    weighs more. From there both modalities are decoded: the share of each feature in the counts of a cell, around which
    counts are negative binomial. How many counts there are in all is a latent number of each modality. The prior of the
    places is a mixture of normal distributions, which lets cells gather.

    When to use
    -----------
    Raw counts of both modalities of a thousand cells or more, and cells that have only one: such a cell also teaches,
    and its place is the product without the expert that it lacks.

    When not
    --------
    A few hundred cells of many types, or a first look: ``"svd_concat"`` takes seconds. Values without counts. Batches
    that differ but are not named (`batch_key=`): nothing takes them out.

    Differs from the paper
    ----------------------
    The encoders see 100 singular vectors of each modality, layers are fewer, and counts are negative binomial with one
    dispersion for each feature, where the paper adds zeros; both likelihoods weigh what they are, where that of RNA
    counted four times. Some cells are placed by one modality in training, so that each expert knows its way alone. The
    mixture starts at the places that a first stage with a single normal distribution has found, not at those of an
    untrained net. The responsibilities of its components are those that make the bound tightest, not those of one draw.
    The decoder is told the batch, if one is given. ``preset="paper"`` takes back all but the last two. Under it, too,
    the library of each modality has a prior of its own, the standard deviation of a posterior is the root of its
    variance, cells that were held out, not those that are asked for, choose the weights, and the learning rate stays,
    where it fell to a tenth. ``preset="dance"`` warms up over 10 of its 25 epochs; as published, the prior would reach
    an eighth of its weight.

    Parameters
    ----------
    hidden
        Widths of the hidden layers of an encoder; the branch of the decoder mirrors them.
    likelihood
        "nb": negative binomial with a dispersion for each feature; "zinb": with added zeros, a dispersion and an
        inflation for each entry.
    rna_weight
        Weight of the likelihood of RNA against that of the other modality.
    alone
        Part of the cells, in [0, 1], that are placed by one of their modalities in training, though both are to be
        explained.
    n_components
        Components of the mixture; fewer where there are not ten cells for each.
    pretraining
        with a single normal distribution as prior
    training
        with the mixture
    """

    likelihood: Literal["nb", "zinb"] = "nb"
    rna_weight: float = 1.0
    alone: float = 0.2
    n_components: int = 22
    pretraining: Train = Train(epochs=None, steps=1000, lr=4e-3, batch_size=128, patience=10)
    training: Train = Train(epochs=None, steps=1500, lr=2e-3, batch_size=128, patience=10)

    cite = "Zuo2021"
    presets = {
        "paper": PAPER,
        "dance": PAPER | {"n_top_genes": 3000, "n_top_peaks": 10_000, "warm_up": 10, "epochs": 25},
    }

    def check(self) -> None:
        super().check()
        whole_number(self.n_components, "n_components", least=1)
        if self.rna_weight < 0 or not 0 <= self.alone <= 1:
            msg = (
                f"rna_weight={self.rna_weight!r} and alone={self.alone!r}, but a weight of at least 0 and a part in "
                "[0, 1] are needed."
            )
            raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        super().prepare(pair, rows)
        self.n_components_ = max(1, min(self.n_components, len(rows) // CELLS_PER_COMPONENT))

    def net(self) -> nn.Module:
        return Net(
            self.sides_,
            list(self.hidden),
            self.n_latent,
            dropout=self.dropout,
            likelihood=self.likelihood,
            n_components=self.n_components_,
            n_batches=self.n_batches_,
        )

    def learn_lone(self, pair: Pair) -> None:
        """Nothing: a cell of one modality is placed by its expert."""

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        return {"embedding": self._places(pair, pair.at)}

    def place(self, x: Seen, y: Seen) -> Tensor:
        return self.net_.posterior(x, y).mean  # type: ignore[no-any-return]

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        net, sides = self.net_, dict(zip(ROLES, (pair.source, target_of(pair)), strict=True))
        for (role, cells), at in zip(sides.items(), rows.T, strict=True):
            net.heads[role].start_at(mean_counts(cells.part(at)).to(self.target))
        x, y = (self.reader(cells, role) for role, cells in sides.items())
        teaching = np.concatenate([rows, pair.at[(pair.at < 0).any(axis=1)]])
        weights = {role: self.rna_weight if side["modality"] == "rna" else 1.0 for role, side in self.sides_.items()}
        now: dict[str, Any] = {"before": 0, "prior": 0.0}

        def warm(epoch: int) -> None:
            now["prior"] = self.prior_weight(now["before"] + epoch)

        def step(batch: tuple[Seen, Seen]) -> Tensor:
            return net.bound(*batch, weights, now["prior"], self.alone)  # type: ignore[no-any-return]

        def stage(name: str, how: Train) -> Log:
            batches = PairedBatches(x, y, teaching, how.batch_size, self.rng(name))
            return self.run(step, batches, valid, how=how, stage=name, each_epoch=warm)

        net.prior.requires_grad_(False)  # it is still a single normal distribution
        now["before"] = stage("pretraining", self.pretraining).epochs
        net.prior.requires_grad_(True)
        with torch.no_grad():
            found = [net.posterior(x(rows[at, 0]), y(rows[at, 1])) for at in slices(len(rows))]
        z, log_variance = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        proba = mixture(z, self.n_components_, n_init=1, random_state=self.random_state)[2]
        net.prior.start_at(z, np.exp(log_variance), proba)
        stage("training", self.training)


class Mixture(nn.Module):
    """Mixture of `k` normal distributions with diagonal covariance; it starts as a single standard normal one."""

    def __init__(self, k: int, n_dims: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(k))
        self.mean, self.log_variance = nn.Parameter(torch.zeros(k, n_dims)), nn.Parameter(torch.zeros(k, n_dims))

    def start_at(self, mean: np.ndarray, variance: np.ndarray, proba: np.ndarray) -> None:
        """Weights and moments of normal distributions, (n, n_dims), of which `proba`, (n, k), are in each component."""
        share = proba.T / np.maximum(proba.sum(axis=0), TINY)[:, None]
        middle = share @ mean
        spread = share @ (mean**2 + variance) - middle**2
        with torch.no_grad():
            self.logits.copy_(torch.from_numpy(np.log(np.maximum(proba.mean(axis=0), TINY))))
            self.mean.copy_(torch.from_numpy(middle))
            self.log_variance.copy_(torch.from_numpy(np.log(np.maximum(spread, LEAST_VARIANCE))))

    def divergence(self, q: Normal) -> Tensor:
        """Divergence of q(z) γ(c) from p(z|c) π_c at the best γ, (n,), never below that of q(z) from the mixture.

        min over γ of Σ_c γ_c KL(q ‖ p(z|c)) + KL(γ ‖ π)  =  −log Σ_c π_c exp(−KL(q ‖ p(z|c)))
        """
        of_each = divergence(Normal(q.mean[:, None], q.log_variance[:, None]), Normal(self.mean, self.log_variance))
        return -(self.logits.log_softmax(dim=0) - of_each.sum(dim=2)).logsumexp(dim=1)


def product(experts: Iterable[tuple[Normal, Tensor]]) -> Normal:
    """Product of a standard normal distribution and those experts, (n, n_dims), that have a say, (n,) bool.

    1/v = 1 + Σ 1/v_m,  mean = v Σ mean_m/v_m
    """
    precision, weighted = torch.ones(()), torch.zeros(())
    for expert, says in experts:
        own = (-expert.log_variance).exp() * says[:, None]
        precision, weighted = precision + own, weighted + own * expert.mean
    return Normal(weighted / precision, -precision.log())


class Net(nn.Module):
    """Encoders of places and libraries, a decoder with a branch for each modality, and the prior.

    Parameters
    ----------
    sides
        By role the ``n_in`` and ``n_vars`` of a modality, and the mean and deviation of its logarithmic ``library``.
    hidden, n_latent, dropout, likelihood, n_components
        As in :class:`ScMVAE`.
    n_batches
        Number of batches that the decoder is told.
    """

    def __init__(
        self,
        sides: dict[str, dict[str, Any]],
        hidden: list[int],
        n_latent: int,
        *,
        dropout: float,
        likelihood: Literal["nb", "zinb"],
        n_components: int,
        n_batches: int,
    ) -> None:
        super().__init__()
        how: dict[str, Any] = {"batch_norm": True, "dropout": dropout}
        dispersion: Any = "gene" if likelihood == "nb" else "entry"
        width = hidden[-1]
        self.usual = {role: side["library"] for role, side in sides.items()}
        self.experts, self.libraries, self.branches, self.heads = (nn.ModuleDict() for _ in range(4))
        for role, side in sides.items():
            n_vars = side["n_vars"]
            self.experts[role] = nn.Sequential(Dense([side["n_in"], *hidden], **how), Posterior(width, n_latent))
            self.libraries[role] = nn.Sequential(Dense([n_vars, LIBRARY], **how), Posterior(LIBRARY, 1))
            self.branches[role] = Dense(hidden[::-1], **how)
            self.heads[role] = Shares(hidden[0], n_vars, likelihood=likelihood, dispersion=dispersion)
        self.decoder = Dense([n_latent, width, 2 * width], n_covariates=n_batches, **how)
        self.prior = Mixture(n_components, n_latent)

    def posterior(self, x: Seen, y: Seen) -> Normal:
        """Where cells lie, by each modality that they have."""
        return product((self.experts[role](seen.values), seen.there) for role, seen in zip(ROLES, (x, y), strict=True))

    def bound(self, x: Seen, y: Seen, weights: dict[str, float], prior: float, alone: float) -> Tensor:
        """Negative evidence lower bound of a batch, per cell; in evaluation at the means, and weighed in full.

        Parameters
        ----------
        x, y
            The cells in source and target.
        weights
            Weight of the likelihood of each modality, by role.
        prior
            Weight of the divergence of the places from the prior.
        alone
            Part of the cells that are placed by one modality.
        """
        if self.training:
            q = self.posterior(*partly_hidden(x, y, alone))
            z = q.draw()
        else:
            q = self.posterior(x, y)
            z, prior = q.mean, 1.0
        loss = prior * self.prior.divergence(q).mean()
        batch = None if x.batch is None or y.batch is None else torch.where(x.there, x.batch, y.batch)
        for role, seen, h in zip(ROLES, (x, y), self.decoder(z, batch).chunk(2, dim=1), strict=True):
            if seen.there.any():
                loss = loss + seen.there.float().mean() * self.unexplained(role, h, seen, weights[role])
        return loss

    def unexplained(self, role: str, h: Tensor, seen: Seen, weight: float) -> Tensor:
        """Negative log-likelihood of the counts of the cells that are there, and divergence of their libraries."""
        # in the unit of its own prior, in which that is a standard normal distribution
        q = self.libraries[role](seen.counts.log1p())
        middle, spread = self.usual[role]
        size = (middle + spread * (q.draw() if self.training else q.mean)[:, 0]).exp()
        h, there = self.branches[role](h), seen.there
        loss = seen.counts.shape[1] * self.heads[role].loss(h[there], seen.counts[there], size[there])  # type: ignore[operator]
        return weight * loss + divergence(q, STANDARD)[there].sum(dim=1).mean()  # type: ignore[no-any-return]


def partly_hidden(x: Seen, y: Seen, share: float) -> tuple[Seen, Seen]:
    """The same cells, of which a `share` seems to lack a modality, half of them each."""
    draw, both = torch.rand(len(x.there), device=x.there.device), x.there & y.there
    lacks_x, lacks_y = both & (draw < share / 2), both & (draw > 1 - share / 2)
    return x._replace(there=x.there & ~lacks_x), y._replace(there=y.there & ~lacks_y)
