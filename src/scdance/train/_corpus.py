"""Several data sets as one, of which groups of cells of a sample are read together, from memory or from disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from scdance._core.cells import Cells
from scdance.graph import tiles, unit_coordinates
from scdance.pp import blocks

FEW = 100  # cells: smaller samples of a data set are read together
RUN = 32  # cells that lie next to each other and stay together, so that a file is read in few pieces
SOME = 20  # groups, of which means are taken
MANY = 10  # groups, of which one can be spared
LEAST_THETA, MOST_THETA = 0.01, 100.0  # of a gene, before any training


class Tokens(NamedTuple):
    """Some cells that are read together.

    Attributes
    ----------
    x
        Log-normalised expression, (n, n_genes).
    counts
        Counts of the same genes, (n, n_genes); None where the cells came without.
    places
        Coordinates, (n, 2), from 0 to 1 along the longer side of the slice; None where there are none.
    genes
        Positions of these genes in the vocabulary, (n_genes,) int; None: all of it.
    codes
        Sample of each cell and, of several data sets, which it is of, (n,) int each, −1 where unknown.
    """

    x: Tensor
    counts: Tensor | None
    places: Tensor | None
    genes: Tensor | None
    codes: tuple[Tensor, ...] = ()


class Reader:
    """Reads cells of one data set as tokens.

    Parameters
    ----------
    cells
        The cells.
    device
        Where tensors go.
    codes
        Sample of each cell and so on, (n_obs,) int each.
    normalized
        Whether expression is that after the recipe; else the logarithm of the counts plus 1, whatever the depth.
    """

    def __init__(
        self, cells: Cells, device: torch.device, codes: tuple[np.ndarray, ...] = (), *, normalized: bool = True
    ) -> None:
        self.cells, self.device, self.codes, self.normalized = cells, device, codes, normalized
        self.genes = None if cells.present is None else np.flatnonzero(cells.present)
        self.places = None
        if cells.coords is not None:
            fields = cells.slice if cells.slice is not None else cells.sample
            self.places = unit_coordinates(cells.coords, fields)[:, :2].astype(np.float32)

    def read(self, rows: np.ndarray) -> Tokens:
        """The cells at these positions."""
        cells = self.cells
        counts = None if cells.counts is None else cells.counts[rows].toarray()
        x = cells.dense(rows) if self.normalized or counts is None else np.log1p(counts)
        if self.genes is not None:
            x, counts = x[:, self.genes], None if counts is None else counts[:, self.genes]
        return Tokens(
            self._tensor(x),
            None if counts is None else self._tensor(counts),
            None if self.places is None else self._tensor(self.places[rows]),
            None if self.genes is None else self._tensor(self.genes),
            tuple(self._tensor(code[rows].astype(np.int64)) for code in self.codes),
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def sentences(cells: Cells, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Divide cells into groups of one sample each, which are read together.

    Cells of a tissue are divided by place, others at random, but so that neighbouring rows stay together where a
    sample has many groups. Samples of fewer than 100 cells are taken together.

    Parameters
    ----------
    cells
        The cells; a sample is a slice of tissue, or else a batch.
    size
        Most cells of a group.
    rng
        Generator, which is advanced.

    Returns
    -------
    Positions of the cells of each group, ascending; each cell is in one.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> from scdance._core.cells import Cells
    >>> cells = Cells(None, np.arange(500), 500, 0, np.arange(500).astype(str), np.array([]))
    >>> [len(rows) for rows in train.sentences(cells, 200, np.random.default_rng(0))]
    [167, 167, 166]
    """
    sample = cells.slice if cells.slice is not None else cells.sample
    sample = np.zeros(cells.n_obs, dtype=int) if sample is None else np.asarray(sample)
    if cells.coords is not None:
        return tiles(cells.coords, size, sample)
    found = [np.flatnonzero(sample == each) for each in np.unique(sample)]
    small = [rows for rows in found if len(rows) < FEW]
    large = [rows for rows in found if len(rows) >= FEW]
    groups = []
    for rows in [*large, *([np.sort(np.concatenate(small))] if small else [])]:
        n_groups = -(-len(rows) // size)
        if n_groups > 1:
            pieces = np.array_split(rows, max(n_groups, len(rows) // RUN))
            rows = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
        groups += [np.sort(part) for part in np.array_split(rows, n_groups)]
    return groups


class Corpus:
    """Groups of cells of several data sets, other ones in each pass; a part of the first ones may never train.

    Parameters
    ----------
    sources
        Cells of the data sets, all with the same genes.
    size
        Most cells of a group.
    rng
        Generator that divides and shuffles.
    device
        Where tensors go.
    valid
        Share of the groups, in [0, 1), rounded down, that are held out; of 10 groups and more at least one.
    normalized
        As of :class:`Reader`.
    """

    def __init__(
        self,
        sources: Sequence[Cells],
        size: int,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
        *,
        valid: float = 0.0,
        normalized: bool = True,
    ) -> None:
        self.size, self.rng = size, rng
        first = [0, *np.cumsum([len(cells.batch_names or ("",)) for cells in sources])]
        several = [int(first[-1]), *([len(sources)] if len(sources) > 1 else [])]
        self.covariates = [] if several == [1] else several
        self.readers = []
        for i, cells in enumerate(sources):
            sample = np.zeros(cells.n_obs, dtype=np.int64) if cells.batch is None else cells.batch
            codes = (first[i] + sample, np.full(cells.n_obs, i))[: len(self.covariates)]
            self.readers.append(Reader(cells, torch.device(device), codes, normalized=normalized))
        self.trains = [np.ones(cells.n_obs, dtype=bool) for cells in sources]
        groups = self._groups()
        n_held = int(valid * len(groups)) or int(valid > 0 and len(groups) >= MANY)
        self.held_out = [groups[i] for i in np.sort(rng.permutation(len(groups))[:n_held])]
        for i, rows in self.held_out:
            self.trains[i][rows] = False
        self._n = len(self._groups())

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        groups = self._groups()
        return (groups[i] for i in self.rng.permutation(len(groups)))

    def _groups(self) -> list[tuple[int, np.ndarray]]:
        """Number of the data set and positions there of the cells of each group that trains."""
        divided = [(i, sentences(reader.cells, self.size, self.rng)) for i, reader in enumerate(self.readers)]
        groups = [(i, rows[self.trains[i][rows]]) for i, parts in divided for rows in parts]
        return [(i, rows) for i, rows in groups if len(rows)]

    def read(self, group: tuple[int, np.ndarray]) -> Tokens:
        """The cells of a group."""
        i, rows = group
        return self.readers[i].read(rows)

    def mean(self) -> np.ndarray:
        """Mean log-normalised expression of each gene, in some of the groups of cells, (n_vars,) float32."""
        n_vars = self.readers[0].cells.n_vars
        total, n = np.zeros(n_vars), np.zeros(n_vars)
        groups = self._groups()
        for i, rows in (groups[j] for j in self.rng.permutation(len(groups))[:SOME]):
            there = self.readers[i].genes
            there = np.arange(n_vars) if there is None else there
            total[there] += self.read((i, rows)).x.sum(dim=0).cpu().numpy()
            n[there] += len(rows)
        return (total / np.maximum(n, 1)).astype(np.float32)

    def gene_means(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of each gene in the counts of a cell, and θ of the counts about it, (n_vars,) float32 each.

        By moments: with s the counts of a cell and p the share, Σ (x − s p)² is expected to be Σ (s p + (s p)²/θ). A
        gene counts in the data sets that have it.
        """
        n_vars = self.readers[0].cells.n_vars
        x, xx, sx, s, ss = np.zeros((5, n_vars))
        for reader in self.readers:
            there = np.ones(n_vars, dtype=bool) if reader.cells.present is None else reader.cells.present
            for _, block in blocks(cast("Any", reader.cells.counts)):
                size = np.asarray(block.sum(axis=1)).ravel().astype(float)
                x += np.asarray(block.sum(axis=0)).ravel()
                xx += np.asarray(block.multiply(block).sum(axis=0)).ravel()
                sx += block.T @ size
                s += there * size.sum()
                ss += there * (size**2).sum()
        share = np.maximum(x, 0.5) / np.maximum(s, 1.0)
        excess = xx - 2 * share * sx + share**2 * ss - share * s
        theta = np.clip(share**2 * ss / np.maximum(excess, 1e-8), LEAST_THETA, MOST_THETA)
        return (share / share.sum()).astype(np.float32), theta.astype(np.float32)
