"""Boosted trees, a forest and two nets between the scores of truncated SVDs, together."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance.nn import Dense
from scdance.pp import gram_nnls
from scdance.train import PairedBatches, TorchMethod, Train, scores

from ._predictor import Answers
from ._reduced import Reduced, folds
from ._trees import boosted, forest, told_by

SHARES = {"boosting": 2.0, "mlp": 1.0, "resnet": 1.0, "forest": 2.0}  # of the competition's mean
NETS = ("mlp", "resnet")
BLOCKS, TAPPED = 3, 2  # residual blocks, and after which of them batches are told
RIDGE = 1e-6  # of the squares of what members say: two that agree leave their shares open


class LSLEnsemble(Reduced, TorchMethod):
    """Answer with a mean of boosted trees, a multilayer perceptron, a residual net and a random forest [Lance2022]_.

    Both modalities are reduced by truncated singular value decompositions. From the scores of the source, four kinds of
    models learn those of the target: trees that each learn what those before leave over, with all scores at the
    leaves of one tree; two nets; and a forest. They err in different places, so that a weighted mean is closer than
    each of them. The weights are those of least squares on cells that were held out, none below 0.

    Parameters
    ----------
    members
        Kinds that take part: "boosting", "mlp", "resnet", "forest".
    weights
        "learnt": found on the held-out cells; where no kind says anything of them, all are near 0 and the mean is left.
        "fixed": 2 : 1 : 1 : 2 in the order above, as in the competition; of fewer members their shares of the rest.
    n_trees, depth, rate, share
        Of the boosted trees: how many at most, their depth, the part of each that is added, and the share of the cells
        and, at each node, of the components that a tree is grown on.
    n_forest
        Trees of the forest.
    hidden
        Units of each hidden layer of the nets.
    dropout
        Share of the units that is left out in training.
    batch_share
        Share of the residual net's loss that is the cross entropy of the batches, which it then tells from its second
        block, in [0, 1). It takes part where there are two batches.
    training
        training of each net

    When to use
    -----------
    First: kinds that see the data differently are averaged, so that little depends on the knobs of one, and nothing
    that was measured answers better over all pairs of modalities. It takes half a minute for ten thousand cells.

    When not
    --------
    When an answer is wanted in seconds (`pca_knn`, `kernel_ridge`), or to learn why a cell is answered as it is.

    Differs from the paper
    ----------------------
    The competition boosted with another library, whose trees with many outputs these follow, by two settings of it
    that were averaged; here one setting, and as many trees as suit held-out cells. Its residual net was trained
    mostly to tell batches (8/9 of its loss, the preset "paper"), which says nothing of new ones: by default it is not.
    The members' weights are learnt, the nets have dropout and end by held-out cells, scores are brought to one scale,
    and one split of the cells takes the place of five folds. With several members of the ensemble each holds out one
    fold, with a like share of each batch, and decompositions are learnt from the cells that stay.
    """

    members: tuple[str, ...] = tuple(SHARES)
    weights: Literal["learnt", "fixed"] = "learnt"
    n_trees: int = 150
    depth: int = 6
    rate: float = 0.1
    share: float = 0.4
    n_forest: int = 100
    hidden: int = 400
    dropout: float = 0.2
    batch_share: float = 0.0
    training: Train = Train(epochs=60, lr=2e-3, batch_size=256, weight_decay=1e-2, patience=8, optimizer="adamw")

    presets = {
        "paper": {
            "members": ("boosting", "mlp", "resnet"),
            "weights": "fixed",
            "rate": 0.25,
            "share": 1.0,
            "hidden": 500,
            "dropout": 0.0,
            "batch_share": 8 / 9,
            "n_ensemble": 5,
            "n_top_peaks": None,
            "epochs": 25,
            "patience": None,
            "lr": 1e-2,
            "batch_size": 100,
            "weight_decay": 1e-5,
            "optimizer": "adam",
        },
    }
    presets["gex2adt"] = presets["paper"]
    presets["adt2gex"] = presets["paper"] | {"members": tuple(SHARES)}
    ends_by_validation = True

    def check(self) -> None:
        super().check()
        unknown = [name for name in self.members if name not in SHARES]
        if unknown or not self.members or len(set(self.members)) < len(self.members):
            msg = f"members={self.members!r}, but they must be some of {', '.join(SHARES)}, each once."
            raise InputError(msg)
        for name in ("dropout", "batch_share"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0 and below 1."
                raise InputError(msg)

    def divide(self, member: int, teach: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """All folds but one and that one, where there are several members."""
        if self.n_ensemble == 1:
            return super().divide(member, teach, batch)
        return folds(teach, batch, self.n_ensemble, member, self.rng("folds"))

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        """Nothing is shared: each member of the ensemble has its own decompositions."""
        self.spaces_: list[dict[str, np.ndarray]] = []
        self.trees_: list[dict[str, dict[str, np.ndarray]]] = []
        self.shares_: list[np.ndarray] = []
        batch = pair.source.batch
        self.n_batches_ = 0 if batch is None or not self.batch_share else len(np.unique(batch[rows[:, 0]]))

    def net(self) -> nn.Module:
        return nn.ModuleList(self._nets(space) for space in self.spaces_)

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        self.reduce(pair, rows)
        x, y = self.given(pair.source, rows[:, 0]), self.wanted(pair, rows)
        scale = [np.sqrt(np.square(side, dtype=np.float64).mean()) or 1.0 for side in (x, y)]
        self.spaces_.append(self.loadings_ | {"scale": np.array(scale)})
        x, y = x / np.float32(scale[0]), y / scale[1]
        judge = (self._inputs(pair.source, valid[:, 0], member), self.wanted(pair, valid) / scale[1])
        if member == 0:
            self.net_ = nn.ModuleList()
        nets = self._nets(self.spaces_[-1]).to(self.target)
        self.net_.append(nets)
        for kind in nets:
            self._train(nets[kind], x, y, self._codes(pair, rows), judge, f"{kind} {member}" if member else kind)
        nets.eval()
        trees = {}
        if "boosting" in self.members:
            numbers = {"n_trees": self.n_trees, "depth": self.depth, "rate": self.rate, "share": self.share}
            trees["boosting"] = boosted(x, y, judge, self.rng(f"boosting {member}"), **numbers)  # type: ignore[arg-type]
        if "forest" in self.members:
            numbers = {"max_samples": 0.3, "min_samples_leaf": 5, "max_features": 0.33}
            trees["forest"] = forest(x, y, self.rng(f"forest {member}"), n_trees=self.n_forest, **numbers)
        self.trees_.append(trees)
        self.shares_.append(self._weights(self._said(member, judge[0]), judge[1]))
        shares = np.mean(self.shares_, axis=0)
        self.notes_["weights"] = {name: float(each) for name, each in zip(self.members, shares, strict=True)}

    def answers(self, member: int, source: Cells) -> Answers:
        space, mean = self.spaces_[member], self.features_["mean"]

        def of(rows: slice) -> np.ndarray:
            said = self._said(member, self._inputs(source, rows, member))
            together = np.tensordot(self.shares_[member], said, axes=1) * space["scale"][1]
            return mean + together.astype(np.float32) @ space["target"]

        return of

    # ------------------------------------------------------------------ the members

    def _inputs(self, source: Cells, rows: np.ndarray | slice, member: int) -> np.ndarray:
        """Scores of the source on one scale, (n, n_source) float32."""
        space = self.spaces_[member]
        return scores(source, rows, space["source"]) / np.float32(space["scale"][0])

    def _said(self, member: int, x: np.ndarray) -> np.ndarray:
        """What each kind says, (n_kinds, n, n_target) float32."""
        said = {name: told_by(trees, x) for name, trees in self.trees_[member].items()}
        with torch.no_grad():
            inputs = torch.from_numpy(x).to(self.target)
            said |= {name: net(inputs).cpu().numpy() for name, net in self.net_[member].items()}
        return np.stack([said[name] for name in self.members])

    def _weights(self, said: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Weight of each kind, (n_kinds,) float64."""
        fixed = np.array([SHARES[name] for name in self.members])
        if self.weights == "fixed" or not len(truth):
            return fixed / fixed.sum()
        flat = said.reshape(len(said), -1).astype(np.float64)
        square = flat @ flat.T
        ridge = RIDGE * max(float(np.trace(square)), 1.0)
        return gram_nnls(square + ridge * np.eye(len(flat)), (flat @ truth.ravel())[None])[0]

    def _codes(self, pair: Pair, rows: np.ndarray) -> np.ndarray:
        """Batch of each cell as codes from 0 on, (n,) int64; 0 where batches do not matter."""
        if not self.n_batches_:
            return np.zeros(len(rows), dtype=np.int64)
        return np.unique(np.asarray(pair.source.batch)[rows[:, 0]], return_inverse=True)[1]

    def _nets(self, space: dict[str, np.ndarray]) -> nn.ModuleDict:
        n_in, n_out = len(space["source"]), len(space["target"])
        made = nn.ModuleDict()
        if "mlp" in self.members:
            sizes = [n_in, self.hidden, self.hidden, n_out]
            made["mlp"] = Dense(sizes, batch_norm=True, dropout=self.dropout, last="none")
        if "resnet" in self.members:
            made["resnet"] = ResNet(n_in, self.hidden, n_out, self.dropout, self.n_batches_)
        return made

    def _train(self, net: Any, x: np.ndarray, y: np.ndarray, codes: np.ndarray, judge: Any, stage: str) -> None:
        inputs, wanted, batch = (torch.from_numpy(each).to(self.target) for each in (x, y.astype(np.float32), codes))
        seen, truth = (torch.from_numpy(each.astype(np.float32)).to(self.target) for each in judge)

        def step(given: tuple[Tensor, tuple[Tensor, Tensor]]) -> Tensor:
            here, (target, code) = given
            if not (self.n_batches_ and isinstance(net, ResNet)):
                return functional.mse_loss(net(here), target)
            said, told = net.both(here)
            error, entropy = functional.mse_loss(said, target), functional.cross_entropy(told, code)
            return (1 - self.batch_share) * error + self.batch_share * entropy

        def error() -> float:
            net.eval()
            off = float(((net(seen) - truth) ** 2).mean())
            net.train()
            return off

        rows = np.column_stack([np.arange(len(x))] * 2)
        rng = self.rng(f"{stage} batches")
        batches = PairedBatches(
            lambda at: inputs[at], lambda at: (wanted[at], batch[at]), rows, self.training.batch_size, rng
        )
        net.train()
        valid = error if len(truth) else None
        self.learn(step, net, self.training, stage=stage, batches=batches, valid=valid, rng=rng)


class ResNet(nn.Module):
    """Layers that each add to what they got; the batch is told from what the second of them gives."""

    def __init__(self, n_in: int, hidden: int, n_out: int, dropout: float, n_batches: int):
        super().__init__()
        self.first = nn.Linear(n_in, hidden)
        self.steps = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(BLOCKS))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(BLOCKS))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, n_out)
        self.tells = nn.Linear(hidden, n_batches) if n_batches else None

    def states(self, x: Tensor) -> list[Tensor]:
        """What each block gives, (n, hidden) each."""
        h, out = self.first(x), []
        for step, norm in zip(self.steps, self.norms, strict=True):
            h = self.dropout(functional.relu(norm(h + step(h))))
            out.append(h)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the target, (n, n_out)."""
        return self.head(self.states(x)[-1])  # type: ignore[no-any-return]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and logits of the batches, (n, n_batches)."""
        states = self.states(x)
        return self.head(states[-1]), self.tells(states[TAPPED - 1])  # type: ignore[misc]
