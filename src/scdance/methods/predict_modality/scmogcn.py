"""scMoGNN: cells and features tell each other what they are; what the features say is kept for cells to come."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, warn, whole_number
from scdance._core.cells import Cells, Pair
from scdance.graph import Sparse
from scdance.nn import CellFeatureNet, CellGraph
from scdance.pp import Recipe, canonical
from scdance.train import PairedBatches, Train, components, recipes_to_reduce, scores, slices

from ._facts import FACTS, cosines, facts_of_batches, sparse
from ._torch_predictor import TorchPredictor

JUDGES = 4096  # cells, at most, that speak to the features while validation errors are taken
WHOLE = 10**6  # cells per step: all of them, as published

GROUPS = CellFeatureNet.groups
PUBLISHED = {"cell_init": "learned", "shrink": False, "lr": 1e-2, "batch_size": WHOLE, "epochs": 15_000, "n_layers": 4}
PAPER = PUBLISHED | {"hidden": 256, "dropout": 0.3, "edge_dropout": 0.4, "weight_decay": 1e-4, "patience": 200}
SMALL = PUBLISHED | {
    "hidden": 48,
    "residual": "previous",
    "readout": "concat",
    "dropout": 0.2,
    "edge_dropout": 0.3,
    "weight_decay": 1e-5,
    "patience": 300,
}


class ScMoGCN(TorchPredictor):
    """Predict by messages between cells and the features that they express [Wen2022]_.

    Cells and features of the source are the nodes of a graph; an edge weighs as much as the value of the feature in
    the cell. In each layer a cell averages what its features say, and a feature what its cells say and, with a prior,
    what the features say that are known to go with it. A weighted sum of the states of a cell after all layers is
    mapped to the target. Training takes batches of cells and the features as these see them; at its end what each
    feature says in each layer, having heard all cells that teach, is stored, and a new cell needs nothing else.

    When to use
    -----------
    To predict proteins from RNA, with thousands of paired cells or with hundreds, and to let knowledge of genes enter
    as a prior.

    When not
    --------
    From few features, or where the source says little of the target, as chromatin does of RNA: ``"kernel_ridge"``
    tells as much in a quarter of the time.

    Differs from the paper
    ----------------------
    Steps on batches of cells take the place of thousands of steps on the whole graph, at a constant rate of learning;
    the presets have the published size and schedule, but for the rate, which was lowered late, and for the patience,
    which counted from the 1,500th step on. A cell starts from its singular vectors, not from a state that all share;
    the presets have the latter. There are two layers, not four, and wider ones. Predictions of a cell do not depend on
    others unless `transductive`. Answers start at the mean of each feature and are shrunk to it where the held-out
    cells call for it. As in the authors' code, and unlike in the text, degrees do not normalise the edges, the messages
    are averaged; and the head is linear. Chromatin is weighted by term frequency and inverse document frequency, and
    reduced to its most telling peaks.

    Parameters
    ----------
    hidden
        Width of the states of all nodes, a multiple of 4 from 16 on.
    n_layers
        Rounds of messages.
    cell_init
        What a cell is before the first message: "svd", a linear map of its scores in a truncated singular value
        decomposition; "learned", a state that all cells share. Either is shifted by nine facts about its batch.
    n_components
        Components of that decomposition.
    embedding_layers
        Layers that make the first states; those beyond the first are dense.
    alpha
        Weight of what other features say against what cells say, in [0, 1]; without a prior it has no effect.
    residual
        What a layer after the first takes beside the states of the layer before: those before the first layer
        ("initial") or of one layer earlier ("previous"), side by side; those before the first layer, added ("add");
        or nothing ("none").
    readout
        Whether the states of a cell enter the answer as a sum with learnt weights ("sum") or side by side ("concat").
    dropout
        Part of the units of each state that is dropped in training, in [0, 1).
    edge_dropout
        Part of the edges between cells and features that is dropped in training, in [0, 1).
    prior_weight
        Weight of a link of the prior: "cosine", the cosine of the values of its two features in the cells that
        teach; "given", as the prior has it.
    prior_threshold
        Links whose cosine is no larger in size are left out; −1 keeps all.
    transductive
        Let the cells that are asked take part in the graph, without their target: predictions then depend on the
        cells asked together, which is noted in the run record.
    n_top_genes, n_top_peaks
        Genes or peaks of the source with the largest deviance that are kept; None: all.
    """

    hidden: int = 128
    n_layers: int = 2
    cell_init: Literal["svd", "learned"] = "svd"
    n_components: int = 100
    embedding_layers: int = 1
    alpha: float = 0.5
    residual: Literal["initial", "previous", "add", "none"] = "initial"
    readout: Literal["sum", "concat"] = "sum"
    dropout: float = 0.3
    edge_dropout: float = 0.3
    prior_weight: Literal["cosine", "given"] = "cosine"
    prior_threshold: float = 0.1
    transductive: bool = False
    n_top_genes: int | None = None
    n_top_peaks: int | None = 10_000
    training: Train = Train(epochs=200, lr=3e-3, batch_size=512, weight_decay=1e-4, patience=10, optimizer="adamw")

    cite = "Wen2022"
    uses = ("batch", "prior")  # type: ignore[assignment]
    presets = {
        "paper": PAPER,
        "dance": PAPER | {"alpha": 0.25},
        "gex2adt": PAPER,
        "adt2gex": SMALL,
        "gex2atac": SMALL,
        "atac2gex": SMALL | {"edge_dropout": 0.0, "patience": 1000, "epochs": 3000},
        "competition": SMALL | {"residual": "initial", "edge_dropout": 0.4, "embedding_layers": 2, "epochs": 10_000},
    }

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def check(self) -> None:
        super().check()
        for name in ("n_layers", "n_components", "embedding_layers"):
            whole_number(getattr(self, name), name, least=1)
        inside = {
            "hidden": (self.hidden >= 4 * GROUPS and self.hidden % GROUPS == 0, f"a multiple of {GROUPS}, at least 16"),
            "alpha": (0 <= self.alpha <= 1, "in [0, 1]"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
            "edge_dropout": (0 <= self.edge_dropout < 1, "at least 0 and below 1"),
        }
        for name, (fits, text) in inside.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {text}."
                raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        source, here = pair.source, self._in_graph(pair, rows)
        self.loadings_ = np.zeros((0, source.n_vars), dtype=np.float32)
        if self.cell_init == "svd":
            self.loadings_ = components(source, here, self.n_components, random_state=self.random_state)
            z = scores(source, here, self.loadings_)
            # one scale for all, so that components keep their weight
            self.scaling_ = {"mean": z.mean(axis=0), "sd": np.maximum(z.std(axis=0).mean(), 1e-6)}
        self.batch_facts_ = facts_of_batches(source, here)
        self.is_linked_ = pair.prior is not None and pair.prior[: source.n_vars, : source.n_vars].nnz > 0
        if pair.prior is not None and not self.is_linked_:
            warn("The prior links no two features of the source, and so has no effect.")
        self.notes_ |= {"transductive": self.transductive}

    def one_net(self) -> nn.Module:
        return CellFeatureNet(
            n_vars=self.loadings_.shape[1],
            n_scores=len(self.loadings_),
            n_facts=FACTS,
            n_out=self.n_features,
            hidden=self.hidden,
            n_layers=self.n_layers,
            embedding_layers=self.embedding_layers,
            residual=self.residual,
            readout=self.readout,
            dropout=self.dropout,
            alpha=self.alpha if self.is_linked_ else None,
        )

    def seen(self, source: Cells, rows: Any) -> CellGraph:
        x = sparse(source, rows)
        z = None
        if len(self.loadings_):
            z = self.tensor((x @ self.loadings_.T - self.scaling_["mean"]) / self.scaling_["sd"])
        of_cells, of_features = (self.tensor(x.getnnz(axis)[:, None]) for axis in (1, 0))
        known = len(self.batch_facts_) - 1  # the last row is for the others
        batch = np.full(len(rows), known) if source.batch is None else source.batch[rows]
        facts = self.batch_facts_[np.where((batch >= 0) & (batch < known), batch, known)]
        return CellGraph(Sparse(x, self.target), of_cells, of_features, self.tensor(facts), z)

    def say(self, net: Any, x: CellGraph) -> Tensor:
        return net.recall(x) + self.tensor(self.features_["mean"])  # type: ignore[no-any-return]

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        source, here = pair.source, self._in_graph(pair, rows)
        links = self._links(pair, here)
        mean = self.tensor(self.features_["mean"])
        batches = self.batches(pair, rows, self.training.batch_size, stage)
        speakers = np.sort(self.rng(f"{stage} judges").permutation(here)[:JUDGES])
        some = [self.seen(source, speakers[at]) for at in slices(len(speakers))]

        def step(batch: tuple[CellGraph, Tensor]) -> Tensor:
            seen, y = batch
            if self.edge_dropout:
                seen = seen._replace(edges=seen.edges.dropout(self.edge_dropout))
            return functional.mse_loss(net(seen, links)[: len(y)] + mean, y)  # those behind them have no target

        def judge() -> float:
            net.listen(lambda: some, links)
            return self.rmse(net, pair, valid)

        knobs: dict[str, Any] = {"valid": judge} if len(valid) else {}
        self.learn(step, net, self.training, stage=stage, batches=batches, rng=batches.rng, **knobs)
        net.listen(lambda: (self.seen(source, here[at]) for at in slices(len(here))), links)

    def batches(self, pair: Pair, rows: np.ndarray, size: int, stage: str) -> PairedBatches:
        found = super().batches(pair, rows, size, stage)
        others = np.setdiff1d(self._in_graph(pair, rows), rows[:, 0])
        if len(others):

            def with_others(at: np.ndarray) -> CellGraph:
                n = min(round(len(others) * len(at) / len(rows)), len(others))
                return self.seen(pair.source, np.concatenate([at, found.rng.choice(others, n, replace=False)]))

            found.source = with_others
        return found

    def _in_graph(self, pair: Pair, rows: np.ndarray) -> np.ndarray:
        """Cells that speak to the features: those that teach, or all."""
        return np.arange(pair.source.n_obs) if self.transductive else rows[:, 0]

    def _links(self, pair: Pair, rows: np.ndarray) -> Sparse | None:
        """What a feature hears of others as an average, (n_vars, n_vars)."""
        if not self.is_linked_ or pair.prior is None:
            return None
        n = pair.source.n_vars
        a = canonical(pair.prior[:n, :n])
        if self.prior_weight == "cosine":
            a = cosines(pair.source, rows, a, self.prior_threshold)
        degrees = np.diff(a.indptr)
        a.data /= np.repeat(degrees, degrees)
        return Sparse(a, self.target)
