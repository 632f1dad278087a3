"""One set of cells as arrays: the only thing that methods receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, warn
from scdance.pp import FittedRecipe, blocks, canonical

if TYPE_CHECKING:
    from scdance.pp import Rows


OUTSIDE = 0.01  # share of the spots that may lie beside their picture, and are moved to its border


@dataclass(frozen=True, eq=False)
class Image:
    """A picture of a tissue, which is loaded when :meth:`pixels` is called.

    Attributes
    ----------
    load
        Gives the picture as it is stored.
    rows
        Which cells lie on it, positions among the cells.
    places
        Column and row of each of them in the picture, (n, 2) float64.
    scale
        Pixels of the picture per unit of the coordinates.
    """

    load: Callable[[], np.ndarray]
    rows: np.ndarray
    places: np.ndarray
    scale: float

    def pixels(self) -> np.ndarray:
        """The picture, (height, width, 3), uint8 or float; a fourth channel is dropped, a single one repeated."""
        found = self.load()
        found = found[:, :, None] if found.ndim == 2 else found
        if found.ndim != 3 or found.shape[2] not in (1, 3, 4):
            msg = f"The image has shape {found.shape}, but (height, width, 3) is expected."
            raise InputError(msg)
        return np.repeat(found, 3, axis=2) if found.shape[2] == 1 else found[:, :, :3]

    def inside(self, shape: tuple[int, ...]) -> np.ndarray:
        """The places moved into a picture of this shape; where many lie beside it, they are refused."""
        limit = np.array([shape[1] - 1, shape[0] - 1], dtype=float)
        beside = np.any((self.places < 0) | (self.places > limit), axis=1)
        if beside.mean() > OUTSIDE:
            low, high = self.places.min(axis=0), self.places.max(axis=0)
            msg = (
                f"{int(beside.sum())} of {len(self.places)} spots lie outside the image ({shape[1]} × {shape[0]}): "
                f"their columns run from {low[0]:.0f} to {high[0]:.0f}, their rows from {low[1]:.0f} to {high[1]:.0f}. "
                "Check the scale factor of the image and the unit of the coordinates."
            )
            raise InputError(msg)
        if beside.any():
            warn(f"{int(beside.sum())} of {len(self.places)} spots lie outside the image; the nearest pixels are used.")
        return np.clip(self.places, 0, limit)

    def among(self, rows: np.ndarray) -> Image:
        """The same for a selection of the cells, by position."""
        place = np.full(max(int(self.rows.max(initial=-1)), int(rows.max(initial=-1))) + 1, -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.rows] >= 0
        return replace(self, rows=place[self.rows][kept], places=self.places[kept])


def perturbed_genes(name: str, control: str) -> tuple[str, ...]:
    """The genes that a perturbation joins by "+", sorted, without the name of the control; none for the control."""
    return tuple(sorted({part.strip() for part in name.split("+")} - {control, ""}))


@dataclass(frozen=True, eq=False)
class Screen:
    """What is perturbed in each cell, and which perturbations are asked for.

    Attributes
    ----------
    names
        Perturbations of the cells, the control first.
    codes
        Perturbation of each cell as a position in `names`, (n_obs,) int32; 0 for the control.
    targets
        Perturbations that are asked for. No cell that a method learns from has one of them.
    """

    names: list[str]
    codes: np.ndarray
    targets: list[str]

    def genes(self, name: str) -> tuple[str, ...]:
        """The genes of a perturbation, sorted."""
        return perturbed_genes(name, self.names[0])

    def among(self, rows: np.ndarray) -> Screen:
        """The same for a selection of the cells, by position."""
        return replace(self, codes=self.codes[rows])


@dataclass(frozen=True, eq=False)
class Cells:
    """A set of cells. What was not given, or is not in the method's `needs` and `uses`, is None.

    Attributes
    ----------
    x
        Expression after the sparse half of the recipe, (n_obs, n_vars) CSR float32, or for data on disk an
        object with `shape` and ``[rows] -> CSR``.
    counts
        Raw counts of the same genes in the same form, for methods that need counts.
    prep
        The fitted recipe; :meth:`dense` applies its per-batch half.
    rows
        Positions of these cells in the user's object, (n_obs,) int.
    n_obs_in, n_vars_in
        Shape of the user's object.
    obs_names, var_names
        Names of these cells and of the kept genes.
    depth
        Total counts of each cell before gene selection, (n_obs,) float64.
    present
        Which of the kept genes the object has, (n_vars,) bool, the others being 0 in `x`; None: all of them.
    labels, categories
        Known type of each cell as codes, (n_obs,) int32, −1 where there is none; the names of the types.
    coords
        Place of each cell, (n_obs, 2 or 3) float64.
    slice
        Slice of tissue that each cell lies on as codes, (n_obs,) int32; None: all on one.
    images
        Picture of the tissue of each slice, in the order of the codes.
    batch, batch_names
        Batch of each cell as codes, (n_obs,) int32, −1 for one unseen in training; the batches of training.
    sample
        The same among the batches of these cells, (n_obs,) int32: also unseen ones are told apart.
    graph
        The user's neighbour graph, (n_obs, n_obs) CSR.
    rep
        The user's representation, (n_obs, n_dims) float32.
    screen
        What is perturbed in each cell, and what is asked.
    target
        The same cells of a reference by the genes that are asked, in the unit of the answers; `x` and the rest are
        those that both sides have.
    modality
        What is measured, for cells of a pair: "rna", "prot" or "atac".
    extra
        Arrays that a single task names.
    """

    prep: FittedRecipe
    rows: np.ndarray
    n_obs_in: int
    n_vars_in: int
    obs_names: np.ndarray
    var_names: np.ndarray
    x: Rows | None = None
    counts: Rows | None = None
    depth: np.ndarray | None = None
    present: np.ndarray | None = None
    labels: np.ndarray | None = None
    categories: list[str] | None = None
    coords: np.ndarray | None = None
    slice: np.ndarray | None = None
    images: tuple[Image, ...] | None = None
    batch: np.ndarray | None = None
    batch_names: list[str] | None = None
    sample: np.ndarray | None = None
    graph: sp.csr_matrix | None = None
    rep: np.ndarray | None = None
    screen: Screen | None = None
    target: Cells | None = None
    modality: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.rows)

    @property
    def n_vars(self) -> int:
        """Number of genes that the recipe kept."""
        return len(self.var_names)

    def part(self, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> Cells:
        """Some of the cells and genes (None: all), in memory; the recipe must have no step that fills the matrix."""
        if columns is not None and self.prep.filling:
            msg = "a recipe that fills the matrix is fitted to all of its genes"
            raise TypeError(msg)

        def some(block: Any) -> Any:
            return block if columns is None else canonical(block[:, columns])

        def cut(matrix: Rows | None) -> Any:  # does not call itself: such a cycle would hold all until a collection
            if matrix is None:
                return None
            if not sp.issparse(matrix) and rows is None:
                return sp.vstack([some(block) for _, block in blocks(matrix)], format="csr")
            return some(matrix if rows is None else matrix[rows])

        new: dict[str, Any] = {"x": cut(self.x), "counts": cut(self.counts)}
        if columns is not None:
            new |= {name: getattr(self, name)[columns] for name in ("var_names", "present") if _has(self, name)}
        if rows is not None:
            by_cell = ("rows", "obs_names", "depth", "labels", "coords", "slice", "batch", "sample", "rep")
            new |= {name: getattr(self, name)[rows] for name in by_cell if _has(self, name)}
            new["graph"] = None if self.graph is None else self.graph[rows][:, rows]
            new["screen"] = None if self.screen is None else self.screen.among(np.asarray(rows))
            new["target"] = None if self.target is None else self.target.part(rows)
            if self.images is not None:
                new["images"] = tuple(image.among(np.asarray(rows)) for image in self.images)
        return replace(self, **new)

    def dense(self, rows: Any) -> np.ndarray:
        """Rows of `x`, dense and after the whole recipe, (n, n_vars) float32."""
        if self.x is None:
            msg = "these cells were read without expression"
            raise TypeError(msg)
        return self.prep.dense(self.x[rows])

    def dense_blocks(self, size: int = 1024) -> Iterator[np.ndarray]:
        """All rows in order as dense blocks of at most `size` rows, after the whole recipe."""
        if self.x is None:
            msg = "these cells were read without expression"
            raise TypeError(msg)
        for _, block in blocks(self.x, size):
            yield self.prep.dense(block)


def _has(cells: Cells, name: str) -> bool:
    return getattr(cells, name) is not None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sets of measurements of cells, of which some are in both.

    Attributes
    ----------
    source, target
        The cells of each modality; `target` is None where a fitted method is asked for it.
    at
        For each cell of the pair its row in `source` and in `target`, (n_obs, 2) int, −1 where it is not.
    rows, n_obs_in, obs_names
        Positions in the user's MuData of the cells that are in at least one, (n_obs,) int; the number of its
        cells; names of the cells of the pair.
    prior
        What is known of the features, those of `source` before those of `target`: symmetric weights of their links,
        (n_vars, n_vars) CSR float32 without self-loops.
    """

    source: Cells
    target: Cells | None
    at: np.ndarray
    rows: np.ndarray
    n_obs_in: int
    obs_names: np.ndarray
    prior: sp.csr_matrix | None = None

    @classmethod
    def of(cls, source: Cells, target: Cells | None, obs_names: np.ndarray) -> Pair:
        """Pair two modalities by the names of their cells; `obs_names` are those of the MuData, unique."""
        import pandas as pd

        there: list[Any] = [[] if side is None else side.obs_names for side in (source, target)]
        at = np.column_stack([pd.Index(names).get_indexer(obs_names) for names in there])
        rows = np.flatnonzero((at >= 0).any(axis=1))
        return cls(source, target, at[rows], rows, len(obs_names), obs_names[rows])

    @property
    def n_obs(self) -> int:
        """Number of cells in at least one modality."""
        return len(self.rows)

    @property
    def measured(self) -> np.ndarray:
        """Name of the one modality that each cell has, or "both", (n_obs,) text."""
        names = [self.source.extra["input"]["modality"], self.target.extra["input"]["modality"]]  # type: ignore[union-attr]
        there = self.at >= 0
        return np.where(there.all(axis=1), "both", np.where(there[:, 0], *names))

    @property
    def both(self) -> np.ndarray:
        """Rows in `source` and `target` of the cells that are in both, (n_both, 2) int."""
        return self.at[(self.at >= 0).all(axis=1)]
