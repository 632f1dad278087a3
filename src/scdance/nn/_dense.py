"""Stacks of dense layers, the body of most networks here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


class Dense(nn.Module):
    """Dense layers one after the other: linear, batch norm, activation, dropout.

    Parameters
    ----------
    sizes
        Widths from the input to the output, at least the input's.
    activation
        Activation between layers: relu, leaky_relu (slope 0.2 below 0), prelu, elu, gelu, silu, tanh, sigmoid or none.
    last
        Name of the activation after the last layer; the default is the same. A last layer with
        ``"none"`` is a plain linear map, without batch norm and dropout.
    batch_norm
        Normalise each layer over the batch before the activation.
    dropout
        Fraction of units dropped after each activation while training, in [0, 1).
    n_covariates
        Number of categories (batches, say) that enter the first layer one-hot beside the input; 0 for none.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.Dense([50, 16, 4], last="none", dropout=0.1)(torch.zeros(3, 50)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        last: str | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
        n_covariates: int = 0,
    ) -> None:
        super().__init__()
        self.n_covariates = n_covariates
        layers: list[nn.Module] = []
        n_layers = len(sizes) - 1
        for i in range(n_layers):
            is_last = i == n_layers - 1
            name = activation if last is None or not is_last else last
            layers.append(nn.Linear(sizes[i] + (n_covariates if i == 0 else 0), sizes[i + 1]))
            if is_last and name == "none":
                continue
            if batch_norm:
                layers.append(nn.BatchNorm1d(sizes[i + 1]))
            layers.append(_ACTIVATIONS[name]())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, covariate: Tensor | None = None) -> Tensor:
        """Output of the last layer, (n_obs, sizes[-1]).

        Parameters
        ----------
        x
            Input, (n_obs, sizes[0]).
        covariate
            Category of each row, (n_obs,), integers below `n_covariates`; −1 (a category not seen in
            training) enters as the average category.
        """
        if self.n_covariates:
            x = torch.cat([x, self._one_hot(covariate, x)], dim=1)
        return self.layers(x)  # type: ignore[no-any-return]

    def _one_hot(self, covariate: Tensor | None, x: Tensor) -> Tensor:
        if covariate is None:
            return x.new_full((len(x), self.n_covariates), 1 / self.n_covariates)
        one_hot = covariate[:, None] == torch.arange(self.n_covariates, device=x.device)
        return torch.where(covariate[:, None] < 0, 1 / self.n_covariates, one_hot.to(x))


class LayerMean(nn.Module):
    """Mean of the states of a node after several layers, by learnt weights that sum to 1.

    Parameters
    ----------
    n_layers
        Number of layers, which start with equal weights.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.LayerMean(2)(torch.tensor([[[0.0, 2.0], [4.0, 2.0]]])).tolist()
    [[2.0, 2.0]]
    """

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Means, (n, n_features); `x` are the states, (n, n_layers, n_features)."""
        return torch.einsum("l,nlk->nk", self.weights.softmax(dim=0), x)
