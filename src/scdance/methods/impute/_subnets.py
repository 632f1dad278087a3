"""Small networks side by side, computed together, each of which stops by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance.train import Train


class Subnets(nn.Module):
    """Networks of one hidden layer side by side: the first axis of each parameter is the subset.

    Parameters
    ----------
    n_vars
        Number of genes.
    predictors
        Genes that each network sees.
    subset
        Which network predicts each of the predicted genes, (n_targets,) int.
    hidden, dropout
        As in :class:`~scdance.methods.impute.deepimpute.DeepImpute`.
    """

    inputs: Tensor
    subset: Tensor
    column: Tensor

    def __init__(
        self, n_vars: int, predictors: list[np.ndarray], subset: np.ndarray, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.n_subsets, self.dropout = len(predictors), dropout
        inputs = np.full((self.n_subsets, max(map(len, predictors))), n_vars)  # filled up with a gene of zeros
        column = np.empty(len(subset), dtype=np.int64)
        for i, genes in enumerate(predictors):
            inputs[i, : len(genes)] = genes
            column[subset == i] = np.arange(np.sum(subset == i))
        for name, value in (("inputs", inputs), ("subset", subset), ("column", column)):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)
        n_out = int(column.max()) + 1
        self.weight_in = nn.Parameter(_glorot([len(genes) for genes in predictors], inputs.shape[1], hidden))
        self.bias_in = nn.Parameter(torch.zeros(self.n_subsets, 1, hidden))
        self.weight_out = nn.Parameter(_glorot([hidden] * self.n_subsets, hidden, n_out))
        self.bias_out = nn.Parameter(torch.zeros(self.n_subsets, 1, n_out))
        self.dispersion = nn.Parameter(torch.zeros(self.n_subsets, n_out))

    def start_at(self, log_mean: Tensor) -> None:
        """Predict the mean whose logarithm is given, (n_targets,), of every cell, until training finds differences."""
        with torch.no_grad():
            self.weight_out.zero_()
            self.bias_out[self.subset, 0, self.column] = log_mean

    def forward(self, x: Tensor, going: Tensor | None = None) -> Tensor:
        """Outputs of all networks, or of the ones in `going`, for their genes in ascending order, (n_obs, n_genes)."""
        some = slice(None) if going is None or len(going) == self.n_subsets else going.to(x.device)
        by_gene = functional.pad(x, (0, 1)).t().contiguous()
        shown = by_gene[self.inputs[some]].transpose(1, 2)
        h = torch.baddbmm(self.bias_in[some], shown, self.weight_in[some]).relu()
        h = functional.dropout(h, self.dropout, self.training)
        out = torch.baddbmm(self.bias_out[some], h, self.weight_out[some])
        rank = torch.zeros_like(self.inputs[:, 0])
        rank[some] = torch.arange(len(out), device=x.device)
        genes = self.genes(going)
        place = rank[self.subset[genes]] * out.shape[2] + self.column[genes]
        return out.transpose(0, 1).reshape(len(x), -1).index_select(1, place)

    def genes(self, going: Tensor | None = None) -> Tensor:
        """Positions, among the predicted genes, of those of some networks, ascending."""
        if going is None or len(going) == self.n_subsets:
            return torch.arange(len(self.subset), device=self.subset.device)
        return torch.nonzero(torch.isin(self.subset, going.to(self.subset.device))).squeeze(1)

    def per_gene(self, values: Tensor) -> Tensor:
        """From values by subset and place to values by gene, (n_targets,)."""
        return values[self.subset, self.column]


class Runs:
    """Which networks are still going, and the best weights of each so far.

    Parameters
    ----------
    net
        The networks.
    how
        Patience and smallest gain.
    losses
        Gives the validation loss of each network that is going, (n_going,).
    """

    def __init__(self, net: Subnets, how: Train, losses: Callable[[Tensor], Tensor]):
        self.net, self.how, self.losses = net, how, losses
        self.memory: dict[str, Tensor] = {
            "loss": torch.full((net.n_subsets,), float("inf")),
            "waited": torch.zeros(net.n_subsets, dtype=torch.int64),
            "history": torch.empty(0),
            **{f"best_{name}": each.detach().clone() for name, each in net.named_parameters()},
        }

    @property
    def going(self) -> Tensor:
        """Positions of the networks that still train, (n_going,) int."""
        return torch.nonzero(self.memory["waited"] < cast("int", self.how.patience)).squeeze(1)

    @torch.no_grad()
    def judge(self, epoch: int) -> str | None:
        """Keep what has become better, stop what has waited too long, and say so if nothing is left."""
        going, memory = self.going, self.memory
        if epoch == 0 or not len(going):
            return None
        found = self.losses(going)
        better = found < memory["loss"][going] - self.how.min_delta
        chosen = going[better]
        memory["waited"][going] = torch.where(better, 0, memory["waited"][going] + 1)
        memory["history"] = torch.cat([memory["history"], memory["loss"].index_copy(0, going, found).mean().reshape(1)])
        memory["loss"][chosen] = found[better]
        for name, each in self.net.named_parameters():
            best = memory[f"best_{name}"]
            best[chosen.to(best.device)] = each[chosen.to(each.device)].to(best.device)
        return None if len(self.going) else f"no better validation loss of any network in {self.how.patience} epochs"

    def finish(self, epochs: int) -> None:
        """Judge the last epoch and go back to the best weights of each network."""
        self.judge(epochs)
        self.net.load_state_dict({name: self.memory[f"best_{name}"] for name, _ in self.net.named_parameters()})


def _glorot(n_in: list[int], most: int, n_out: int) -> Tensor:
    """Uniform weights, (n_subsets, most, n_out), as wide as fits the number of inputs of each network."""
    bound = torch.tensor([(6 / (n + n_out)) ** 0.5 for n in n_in])
    return (2 * torch.rand(len(n_in), most, n_out) - 1) * bound[:, None, None]
