"""Cells of two modalities in training: which are held out, and how they are read in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scdance._core.cells import Cells, Pair

ROWS = 1024  # cells whose values are computed at once
WHOLE_BATCHES = 3  # from so many batches on, whole ones are held out


def target_of(pair: Pair) -> Cells:
    """The cells of the target, which are there in training.

    Parameters
    ----------
    pair
        Both modalities.

    Returns
    -------
    Its target.

    Raises
    ------
    TypeError
        If the pair has none, as where a fitted method is asked for it.

    Examples
    --------
    >>> train.target_of(pair).n_vars  # doctest: +SKIP
    14
    """
    if pair.target is None:
        msg = "a pair without a target teaches nothing"
        raise TypeError(msg)
    return pair.target


def by_appearance(groups: np.ndarray) -> np.ndarray:
    """The groups in the order in which they first appear, which does not hang on their names.

    Parameters
    ----------
    groups
        Group of each cell, (n,).

    Returns
    -------
    Each group once.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> train.by_appearance(np.array([3, 1, 3, 2])).tolist()
    [3, 1, 2]
    """
    return groups[np.sort(np.unique(groups, return_index=True)[1])]  # type: ignore[no-any-return]


def slices(n: int) -> list[slice]:
    """Slices of at most 1,024 cells, in order.

    Parameters
    ----------
    n
        Number of cells.

    Returns
    -------
    The slices.

    Examples
    --------
    >>> from scdance import train
    >>> train.slices(1500)
    [slice(0, 1024, None), slice(1024, 1500, None)]
    """
    return [slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]


def hold_out_cells(
    cells: np.ndarray, batch: np.ndarray | None, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the cells: whole batches where there are at least three.

    Parameters
    ----------
    cells
        Positions of the cells, (n,).
    batch
        Batch of each cell, by position; None: cells are drawn without regard to it.
    share
        Part that is held out, above 0 and below 1; of batches as many as make that up, at most half.
    rng
        Generator that draws.

    Returns
    -------
    Positions of the cells that stay, and of those that are held out, both sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> stay, out = train.hold_out_cells(np.arange(10), None, 0.2, np.random.default_rng(0))
    >>> len(stay), len(out)
    (8, 2)
    """
    wanted = min(max(1, round(share * len(cells))), len(cells) - 1)
    names = cells[:0] if batch is None else by_appearance(batch[cells])
    if batch is not None and len(names) >= WHOLE_BATCHES:
        order, out = rng.permutation(names), []
        for name in order[: len(names) // 2]:
            out.append(name)
            if np.isin(batch[cells], out).sum() >= wanted:
                break
        inside = np.isin(batch[cells], out)
        return cells[~inside], cells[inside]
    order = rng.permutation(cells)
    return np.sort(order[wanted:]), np.sort(order[:wanted])


class PairedBatches:
    """Batches of paired cells, (inputs, target); iterating goes once through all of them.

    Parameters
    ----------
    source, target
        From positions in a modality to what the training takes of these cells.
    rows
        Positions in source and target, (n, 2) int.
    size
        Cells per batch; one cell left over joins the batch before it.
    rng
        Generator that shuffles anew for each pass.
    """

    def __init__(
        self,
        source: Callable[[np.ndarray], Any],
        target: Callable[[np.ndarray], Any],
        rows: np.ndarray,
        size: int,
        rng: np.random.Generator,
    ):
        self.source, self.target, self.rows, self.size, self.rng = source, target, rows, size, rng

    def __len__(self) -> int:
        n = len(self.rows)
        return max(1, n // self.size + (n % self.size > 1))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        order = self.rng.permutation(len(self.rows))
        ends = [*(self.size * np.arange(1, len(self))), len(order)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            at = self.rows[order[start:end]]
            yield self.source(at[:, 0]), self.target(at[:, 1])
