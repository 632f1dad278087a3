"""CellPLM: cells of a sample are the tokens of a transformer, trained to restore what is hidden of their counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scdance._checks import InputError, listed, whole_number
from scdance._core.cells import Cells
from scdance.nn import CellTransformer, Shape, bilevel_mask
from scdance.pp import Recipe
from scdance.train import Corpus, Peers, Reader, Tokens, TorchMethod, Train, half_cosine, sentences

from ._attention import Heard, heard

VALID = 0.05  # of the groups of cells, which do not train
WARM_UP, LATENT_IN = 0.05, 0.5  # of the steps: the rate rises; the divergences come in
MOST_HIDDEN, CERTAIN = 0.9, 5.0  # share of the genes of a cell; first parameter of the Beta distribution of the shares
FEWEST, LEAST_SHARE = 200, 0.3  # genes of the model that an object must have, or this share of them
SIZES = {
    "tiny": {"hidden": 64, "n_layers": 1, "n_latent": 16, "n_top_genes": 1000},
    "small": {"hidden": 256, "n_layers": 2, "n_latent": 64, "n_top_genes": 2000},
    "base": {"hidden": 512, "n_layers": 4, "n_latent": 128, "n_top_genes": 4000},
}


class CellModel(TorchMethod):
    """Base of all methods on a :class:`~scdance.nn.CellTransformer`: its sizes, and how cells are read as sentences.

    Parameters
    ----------
    hidden
        Numbers of a token, a multiple of `heads` and of 4.
    n_layers
        Layers of attention.
    heads
        Heads of the attention.
    n_latent
        Dimensions of the latent space.
    n_components
        Components of the mixture that is the prior of the latent space; 0: one standard normal distribution.
    dropout
        Part of the units that is dropped in training, in [0, 1).
    init
        Folder of a model of the task "embed", as :func:`scdance.fm.pretrain` writes it, with which training begins; its
        sizes are then taken in place of those here. None: begin from nothing.
    """

    hidden: int = 256
    n_layers: int = 2
    heads: int = 8
    n_latent: int = 64
    n_components: int = 16
    dropout: float = 0.1
    init: str | None = None

    def check(self) -> None:
        super().check()
        for name in ("hidden", "n_layers", "heads", "n_latent"):
            whole_number(getattr(self, name), name, least=1)
        whole_number(self.n_components, "n_components", least=0)
        if self.hidden % self.heads or self.hidden % 4:
            msg = f"hidden={self.hidden}, but it must be a multiple of heads={self.heads} and of 4."
            raise InputError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout={self.dropout!r}, but it must be at least 0 and below 1."
            raise InputError(msg)

    def begin(
        self,
        var_names: np.ndarray,
        covariates: Sequence[int] = (),
        *,
        has_places: bool = False,
        normalized: bool | None = None,
    ) -> Begun | None:
        """Settle the sizes of the network for these genes, by the knobs or by the model that it begins with.

        A model of cells in another unit is refused: `normalized` tells whether cells are brought to one depth, None
        that the method reads them as the model does.
        """
        shape = Shape(
            len(var_names), self.hidden, self.n_layers, self.heads, self.n_latent, self.n_components, self.hidden,
            covariates=tuple(covariates), dropout=self.dropout, has_places=has_places,
        )  # fmt: skip
        begun = None
        if self.init is not None:
            begun = Begun(pretrained(self.init), var_names)
            if normalized not in (None, begun.model.normalize):
                msg = (
                    f"The model of init={self.init!r} was trained with normalize={begun.model.normalize}, and would "
                    "here read cells in another unit; pass the same where the method has `normalize=`, or another "
                    "model."
                )
                raise InputError(msg)
            own = {"n_vars": len(var_names), "covariates": tuple(covariates), "dropout": self.dropout}
            shape = replace(begun.model.net_.shape, **own)  # type: ignore[arg-type]
        self.sizes_ = asdict(shape)
        return begun

    @property
    def sizes(self) -> Shape:
        """The sizes, once they are settled."""
        return Shape(**{**self.sizes_, "covariates": tuple(self.sizes_["covariates"])})


class CountModel(CellModel):
    """Base of methods that restore counts of cells from what is shown of them, told the sample.

    Parameters
    ----------
    masked_cells
        Share of the cells of a step of which genes are hidden, above 0 to 1.
    masked_genes
        Share of their genes that is hidden, above 0 and below 1: the commonest of a Beta distribution.
    drop_cells
        Share of the cells that a step leaves out, from 0 to below 1.
    free_bits
        Divergence from the prior, in nats, that costs nothing, ≥ 0.
    latent_weight
        Weight of what is above, ≥ 0.
    n_contexts
        Divisions of a sample into groups of cells that hear each other; places are the mean over these.
    training
        each step sees `batch_size` cells of one sample, which is also how many hear each other afterwards
    """

    masked_cells: float = 0.75
    masked_genes: float = 0.25
    drop_cells: float = 0.1
    free_bits: float = 0.5
    latent_weight: float = 0.1
    n_contexts: int = 1
    training: Train = Train(
        epochs=None, steps=600, lr=1e-3, batch_size=512, weight_decay=1e-4, clip=2.0, optimizer="adamw"
    )

    needs = ("counts",)
    skips_missing = True
    exempt: ClassVar[dict[str, str]] = {
        "predicts_a_cell_on_its_own": "the place of a cell hangs on the cells that are read with it",
    }

    def check(self) -> None:
        super().check()
        whole_number(self.n_contexts, "n_contexts", least=1)
        ranges = {
            "masked_cells": (0 < self.masked_cells <= 1, "above 0 and at most 1"),
            "masked_genes": (0 < self.masked_genes < 1, "above 0 and below 1"),
            "drop_cells": (0 <= self.drop_cells < 1, "at least 0 and below 1"),
            "free_bits": (self.free_bits >= 0, "at least 0"),
            "latent_weight": (self.latent_weight >= 0, "at least 0"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {wanted}."
                raise InputError(msg)

    # ------------------------------------------------------------------ training

    def net(self) -> CellTransformer:
        return CellTransformer(self.sizes)

    def pretrain(self, sources: Sequence[Cells], *, peers: Peers | None = None, **knobs: Any) -> Self:
        """Train on the cells of several data sets, which have the same genes and need not be in memory.

        The decoder is told the sample of a cell and, of several data sets, which it is of; `peers` are processes that
        do the same, and `knobs` go to the loop.
        """
        rng, how, peers = self.rng("training"), self.training, peers or Peers()
        corpus = Corpus(sources, how.batch_size, rng, self.target, valid=VALID)
        has_places = any(cells.coords is not None for cells in sources)
        unit = getattr(self, "normalize", True)
        begun = self.begin(sources[0].var_names, corpus.covariates, has_places=has_places, normalized=unit)
        shares, theta = corpus.gene_means()
        self.net_ = self.net()
        self.net_.start_at(*map(torch.from_numpy, (corpus.mean(), shares, theta)))
        if begun is not None:
            begun.into(self.net_)
        self.net_.to(self.target)

        own, n_steps = peers.own(rng), how.n_epochs(len(corpus)) * peers.n_steps(len(corpus))

        def step(group: tuple[int, np.ndarray]) -> Tensor:
            i, rows = group
            n_kept = max(2, round((1 - self.drop_cells) * len(rows)))
            self.net_.n_steps += 1
            share = int(self.net_.n_steps) / (LATENT_IN * n_steps)
            return self.loss(corpus.read((i, np.sort(own.permutation(rows)[:n_kept]))), own, min(1.0, share))

        self.learn(step, self.net_, how, batches=corpus, rng=rng, pace=warm_cosine, peers=peers, **knobs)
        self.notes_ = self.judged(corpus, shares)
        return self

    def loss(self, read: Tokens, rng: np.random.Generator, share: float = 1.0) -> Tensor:
        """Of cells of which some genes are hidden all counts, and the hidden ones alone; of all cells the places."""
        hidden = self._hidden(read, rng)
        place = self.net_.latent(self.net_.encoder(read.x.masked_fill(hidden, 0), read.places, read.genes))
        inner, rows = self.net_.decode(place.z, read.codes), hidden.any(dim=1)
        counts = cast("Tensor", read.counts)[rows]
        whole = self.net_.count_loss(inner[rows], counts, None, read.genes)
        part = self.net_.count_loss(inner[rows], counts, hidden[rows], read.genes)
        return whole + part + share * self.latent_weight * self.net_.latent_loss(place, self.free_bits)

    def _hidden(self, read: Tokens, rng: np.random.Generator) -> Tensor:
        """Which entries are hidden, (n, n_genes) bool."""
        n_obs, n_genes = read.x.shape
        rates = rng.beta(CERTAIN, (CERTAIN - 1) / self.masked_genes + 2 - CERTAIN, size=n_obs).clip(max=MOST_HIDDEN)
        return torch.from_numpy(bilevel_mask((n_obs, n_genes), self.masked_cells, rates, rng)).to(read.x.device)

    @torch.no_grad()
    def judged(self, corpus: Corpus, shares: np.ndarray) -> dict[str, Any]:
        """How far off hidden counts are, in deviance and in log-normalised units, over those by the mean of each gene.

        Of groups of cells that did not train, where there are any, else of all.
        """
        rng, by_mean = self.rng("judge"), self.tensor(shares).log()[None]
        off = np.zeros((2, 2))
        self.net_.eval()
        for group in corpus.held_out or corpus:
            read = corpus.read(group)
            hidden, counts = self._hidden(read, rng), cast("Tensor", read.counts)
            h = self.net_.encoder(read.x.masked_fill(hidden, 0), read.places, read.genes)
            net = self.net_.shares(self.net_.decode(self.net_.latent(h).z, read.codes), read.genes)
            mean = (by_mean if read.genes is None else by_mean[:, read.genes]).expand_as(net)
            for i, scores in enumerate((net, mean)):
                off[i] += errors(scores, counts, hidden)
        found = dict(zip(("hidden_deviance", "hidden_mse"), (off[0] / off[1]).tolist(), strict=True))
        return {**found, "n_held_out": sum(len(rows) for _, rows in corpus.held_out)}

    @torch.no_grad()
    def places(self, cells: Cells) -> np.ndarray:
        """Where cells lie in the latent space, (n_obs, n_latent)."""
        self.net_.eval()
        z = np.zeros((cells.n_obs, self.sizes.n_latent), dtype=np.float32)
        rng, reader = self.rng("contexts"), Reader(cells, self.target)
        for _ in range(self.n_contexts):
            for rows in sentences(cells, self.training.batch_size, rng):
                read = reader.read(rows)
                h = self.net_.encoder(read.x, read.places, read.genes)
                z[rows] += self.net_.latent(h).z.cpu().numpy() / self.n_contexts
        return z

    def attention(self, cells: Cells, links: csr_matrix, rng: np.random.Generator, **how: Any) -> Iterator[Heard]:
        """How much cells hear their neighbours by `links`, (n_obs, n_obs), and would hear others in their places.

        `how` is what :func:`heard` takes further.
        """
        self.net_.eval()
        groups = sentences(cells, self.training.batch_size, rng)
        return heard(self.net_.encoder, Reader(cells, self.target), groups, links, rng, **how)


class CellPLM(CountModel):
    """Embed cells by a transformer over the cells of a sample [Wen2024]_.

    A token is a cell: the sum of what its genes say, each by its log-normalised expression, and where it lies in a
    tissue. Cells of a sample hear each other, in time linear in their number [Wu2022]_; what each has become gives its
    place in a latent space, of which a mixture of normal distributions is the prior, and that, with the sample, gives
    its counts. In training a part of the genes of most cells is hidden.

    When to use
    -----------
    With a model that saw many cells, as :func:`scdance.fm.pretrain` makes one from files: to place new cells without
    training, and to begin the training for another task with.

    When not
    --------
    Trained on the cells of one study alone, where ``"pca"`` is faster and often better. For a count of cells in samples
    of a few: a cell says little without others.

    Differs from the paper
    ----------------------
    The network is smaller, so that a processor trains it in minutes. Cells hear some hundred others at a time, and
    places are told. Free bits are so few that the prior takes part. The components of a cell are the likeliest ones
    once the net is trained, so that a cell has one place.

    Parameters
    ----------
    n_top_genes
        Genes of the vocabulary, those that vary most; None: all.
    normalize
        Bring cells to a depth of 10,000 before the logarithm.
    """

    n_top_genes: int | None = 2000
    normalize: bool = True

    cite = "Wen2024"
    uses = ("batch", "coords", "slice")
    presets = SIZES

    @property
    def recipe(self) -> Recipe:  # type: ignore[override]
        """The genes that vary most, log-normalised."""
        depth: dict[str, Any] = {"normalize_total": {"target": 1e4}} if self.normalize else {}
        return Recipe(filter_genes={"min_counts": 1}, **depth, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        if self.n_top_genes is not None:
            whole_number(self.n_top_genes, "n_top_genes", least=1)

    def check_cells(self, cells: Cells) -> None:
        super().check_cells(cells)
        if self.is_fitted:
            check_vocabulary(cells.n_vars if cells.present is None else int(cells.present.sum()), cells.var_names)

    def fit(self, *, cells: Cells) -> Self:
        return self.pretrain([cells])

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"embedding": self.places(cells)}


def warm_cosine(step: int, n_steps: int) -> float:
    """Factor on the learning rate: a short rise, then a fall to 0."""
    return half_cosine(step, n_steps, warm_up=WARM_UP)


def errors(scores: Tensor, counts: Tensor, hidden: Tensor) -> list[float]:
    """Poisson deviance and squared error of log-normalised values, of the hidden counts, summed.

    The expected counts of a cell are shares in its visible ones, brought to these; `scores` are their logarithms.
    """
    shares = scores.exp()
    scale = (counts * ~hidden).sum(dim=1, keepdim=True) / (shares * ~hidden).sum(dim=1, keepdim=True).clamp(min=1e-8)
    expected = (scale * shares).clamp(min=1e-8)
    deviance = 2 * (torch.special.xlogy(counts, counts / expected) - counts + expected)
    unit = 1e4 / (counts * ~hidden).sum(dim=1, keepdim=True).clamp(min=1)
    squared = (torch.log1p(counts * unit) - torch.log1p(expected * unit)).square()
    return [float(deviance[hidden].sum()), float(squared[hidden].sum())]


class Begun:
    """A model that was trained on other cells, and which of its genes others have.

    Parameters
    ----------
    model
        A model of the task "embed".
    var_names
        Genes of the network that begins with it, (n_vars,) str.
    """

    BY_GENE = ("genes", "origin", "head.mean.weight", "head.mean.bias", "head.gene_dispersion")

    def __init__(self, model: CellPLM, var_names: np.ndarray) -> None:
        place = {gene: i for i, gene in enumerate(model.preps_["cells"].var_names.tolist())}
        found = np.array([place.get(gene, -1) for gene in var_names.tolist()])
        self.model, self.rows = model, np.flatnonzero(found >= 0)
        self.columns = found[self.rows]
        check_vocabulary(len(self.rows), model.preps_["cells"].var_names)

    @torch.no_grad()
    def into(self, net: nn.Module, prefix: str = "") -> None:
        """Copy what was learnt into a network, or into the part of one that the model calls `prefix`.

        Genes that the model does not know and the samples of its training are left as they are.
        """
        told = net.state_dict()
        for name, value in self.model.net_.state_dict().items():
            own = name.removeprefix(prefix)
            if not name.startswith(prefix) or own not in told or name.startswith(("covariates.", "n_steps")):
                continue
            if own.removeprefix("encoder.") in self.BY_GENE:
                told[own][self.rows] = value[self.columns]
            else:
                told[own].copy_(value)


def pretrained(init: str) -> CellPLM:
    """The model in the folder `init`, which was trained on other cells."""
    if not Path(init).is_dir():
        msg = f"init={init!r} is no folder: pass that of a model as `scdance.fm.pretrain(files, folder)` writes it."
        raise InputError(msg)
    return CellPLM.load(init)


def check_vocabulary(n_there: int, var_names: np.ndarray) -> None:
    """Refuse cells that have too few of the genes of a model."""
    if n_there < min(FEWEST, LEAST_SHARE * len(var_names)):
        msg = (
            f"Only {n_there} of the {len(var_names)} genes of the model are in the object: too few to say what a cell "
            f"is. The model has genes such as {listed(var_names, 3)}; bring `var_names` to the same kind of names."
        )
        raise InputError(msg)
