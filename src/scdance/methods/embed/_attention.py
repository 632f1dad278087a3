"""How much cells of a tissue hear their neighbours, and would hear others that were put in their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from scdance.nn import CellEncoder, Flow
from scdance.train import Reader

PAIRS = 2**14  # whose weights are computed at once


class Heard(NamedTuple):
    """Weights of the links within one group of cells that are read together.

    Attributes
    ----------
    shuffle
        0: each cell is where it is; from 1: cells have changed places within the group.
    links
        Positions of the links in the list of all, (n,) int.
    sinks, sources
        Cell that hears and cell that is heard, as they now stand at the ends of each link, (n,) int.
    weights
        Weight of each, mean over heads and layers: that of an even share of all would be 1, (n,) float32.
    """

    shuffle: int
    links: np.ndarray
    sinks: np.ndarray
    sources: np.ndarray
    weights: np.ndarray


@torch.no_grad()
def heard(
    encoder: CellEncoder,
    reader: Reader,
    groups: Sequence[np.ndarray],
    links: csr_matrix,
    rng: np.random.Generator,
    n_shuffles: int = 0,
    block: int | None = None,
    *,
    relative: bool = False,
) -> Iterator[Heard]:
    """Weights of the links group by group, each first as it is and then with its cells in other places.

    Links between two groups have none. Random numbers go to places in the order of their coordinates, so that they do
    not hang on the order of the cells. An encoder that is told places reads the cells again at their new ones; for any
    other the weights of the cells are the same wherever they lie.

    Parameters
    ----------
    links
        Who may hear whom, (n_obs, n_obs); only the pattern counts.
    block
        Layer of attention; None: the mean over all.
    relative
        Divide each weight by what follows from how much its two cells hear and are heard by the whole group.
    """
    cells = reader.cells
    group, place = np.empty((2, cells.n_obs), dtype=np.int64)
    for i, rows in enumerate(groups):
        group[rows], place[rows] = i, np.arange(len(rows))
    sinks, sources = np.repeat(np.arange(cells.n_obs), np.diff(links.indptr)), links.indices
    inside = np.flatnonzero(group[sinks] == group[sources])
    inside = inside[np.argsort(group[sinks[inside]], kind="stable")]
    ends = np.searchsorted(group[sinks[inside]], np.arange(len(groups) + 1))
    for rows, first, last in zip(groups, ends[:-1], ends[1:], strict=True):
        if first == last:
            continue
        here = inside[first:last]
        read, at = reader.read(rows), np.stack([place[sinks[here]], place[sources[here]]])
        order = np.arange(len(rows)) if cells.coords is None else np.lexsort(cells.coords[rows].T)
        flows = encoder.flows(read.x, read.places, read.genes)
        for shuffle in range(n_shuffles + 1):
            there = np.arange(len(rows))  # which cell stands at each place
            if shuffle:
                there[order] = order[rng.permutation(len(rows))]
            pairs = now = there[at]
            if shuffle and encoder.has_places and read.places is not None:
                flows = encoder.flows(read.x[torch.from_numpy(there).to(read.x.device)], read.places, read.genes)
                pairs = at
            weights = _weights(flows if block is None else [flows[block]], pairs, relative=relative)
            yield Heard(shuffle, here, rows[now[0]], rows[now[1]], weights)


def _weights(flows: list[Flow], pairs: np.ndarray, *, relative: bool) -> np.ndarray:
    """Weights of pairs, (2, n) positions of sinks and of sources: the mean over heads and layers, (n,)."""
    sinks, sources = torch.from_numpy(pairs).to(flows[0].keys.device)
    parts = [
        _mean([flow.weights(some, others) for flow in flows])
        for some, others in zip(sinks.split(PAIRS), sources.split(PAIRS), strict=True)
    ]
    weights = flows[0].n * torch.cat(parts)
    if relative:
        of_sinks, of_sources = map(_mean, zip(*(flow.totals() for flow in flows), strict=True))
        weights = weights * of_sinks.mean() / (of_sinks[sinks] * of_sources[sources])
    return weights.cpu().numpy()  # type: ignore[no-any-return]


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """Mean over the layers and, along the first dimension, the heads."""
    return torch.stack([each.mean(dim=0) for each in parts]).mean(dim=0)
