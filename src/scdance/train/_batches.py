"""Row batches: read from CSR in memory or on disk, densified one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from scdance._core.cells import Cells


@dataclass(frozen=True)
class Batch:
    """A batch of cells.

    Attributes
    ----------
    rows
        Positions among the cells, (n,) int.
    x
        Expression after the whole recipe, (n, n_vars) float32.
    counts
        Raw counts of the same genes, (n, n_vars) float32; None unless asked for.
    batch
        Code of the batch that each cell was measured in, (n,) int, −1 for one unseen in training; None where
        there are none.
    """

    rows: np.ndarray
    x: torch.Tensor
    counts: torch.Tensor | None = None
    batch: torch.Tensor | None = None


class Batches:
    """Batches of some cells; iterating goes once through all of them.

    Parameters
    ----------
    cells
        The cells.
    size
        Cells per batch. The last batch is smaller; one cell left over joins the batch before it.
    rng
        Generator that shuffles anew for each pass; None keeps the order.
    rows
        Positions to draw from, (n,) int; None for all.
    counts
        Whether batches hold raw counts too.
    device
        Where the tensors go.
    """

    def __init__(
        self,
        cells: Cells,
        size: int,
        *,
        rng: np.random.Generator | None = None,
        rows: np.ndarray | None = None,
        counts: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.cells, self.size, self.rng, self.counts, self.device = cells, size, rng, counts, device
        self.rows = np.arange(cells.n_obs) if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        n = len(self.rows)
        return max(1, n // self.size + (n % self.size > 1))

    def __iter__(self) -> Iterator[Batch]:
        rows = self.rows if self.rng is None else self.rng.permutation(self.rows)
        ends = [*(self.size * np.arange(1, len(self))), len(rows)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            yield self.take(rows[start:end])

    def take(self, rows: np.ndarray) -> Batch:
        """One batch of the cells at `rows`."""
        x = torch.from_numpy(self.cells.dense(rows)).to(self.device)
        counts = None
        if self.counts and self.cells.counts is not None:
            counts = torch.from_numpy(self.cells.counts[rows].toarray()).to(self.device)
        batch = None if self.cells.batch is None else torch.from_numpy(self.cells.batch[rows]).to(self.device)
        return Batch(rows, x, counts, batch)


def split(n: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split ``range(n)`` at random into training and validation rows, both sorted.

    Parameters
    ----------
    n
        Number of cells.
    share
        Part that validates, in (0, 1); at least one cell on either side.
    rng
        Generator that draws the split.

    Returns
    -------
    Positions that train and positions that validate, int, both sorted; together each of ``range(n)`` once.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> rows, valid = train.split(10, 0.2, np.random.default_rng(0))
    >>> len(rows), len(valid)
    (8, 2)
    """
    n_valid = min(max(1, round(n * share)), n - 1)
    order = rng.permutation(n)
    return np.sort(order[n_valid:]), np.sort(order[:n_valid])
