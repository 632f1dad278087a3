"""Where spots and cells lie, and how types are spread over the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, listed, one_of, whole_number

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

PITCH = 100.0  # pixels between the centres of neighbouring spots of a lattice, as 100 µm on Visium
NEIGHBOUR_REACH = 1.3  # in pitches: the ring around a spot, 6 on a hexagonal and 4 on a square lattice
N_WAVES = 200  # cosines whose sum is a random field
BLOB_HEIGHT = 3.0  # logit in the middle of a blob
BLOB_RADIUS = 1.5  # in lengthscales: as many blobs as would cover the tissue once
PATTERNS = ("blobs", "layers", "gradient", "gp", "random")
LATTICES = ("hex", "square")


@dataclass
class Layout:
    """Coordinates in pixels, distance between neighbours, and rows and columns of the lattice if it is one."""

    xy: np.ndarray
    pitch: float
    array: pd.DataFrame


def layout(lattice: Any, n_rows: int, n_cols: int) -> Layout:
    import pandas as pd

    if not isinstance(lattice, str):
        return _given(np.array(lattice, dtype=np.float64))
    one_of(lattice, LATTICES, "lattice")
    n_rows, n_cols = whole_number(n_rows, "n_rows", least=1), whole_number(n_cols, "n_cols", least=1)
    row, col = (each.ravel().astype(np.int32) for each in np.indices((n_rows, n_cols)))
    x, y = col * PITCH, row * PITCH
    if lattice == "hex":  # every other row is shifted by half a pitch; Visium counts columns in half pitches
        col = 2 * col + row % 2
        x, y = col * PITCH / 2, row * PITCH * np.sqrt(0.75)
    return Layout(np.column_stack([x, y]), PITCH, pd.DataFrame({"array_row": row, "array_col": col}))


def _given(xy: np.ndarray) -> Layout:
    import pandas as pd
    from scipy.spatial import cKDTree

    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) < 2 or not np.isfinite(xy).all():
        msg = (
            f"lattice must be one of {listed(LATTICES)}, or finite coordinates of at least 2 spots, (n_spots, 2); "
            f"found an array of shape {xy.shape}."
        )
        raise InputError(msg)
    pitch = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    if pitch == 0:
        msg = "Most of the coordinates in lattice occur more than once; pass one place for each spot."
        raise InputError(msg)
    return Layout(xy, pitch, pd.DataFrame(index=range(len(xy))))


def bleeding(spots: Layout, share: float) -> sp.csr_array:
    """Where the RNA of each spot (column) ends up (row): `share` in the ring around it; columns sum to 1."""
    import scipy.sparse as sp
    from scipy.spatial import cKDTree

    n = len(spots.xy)
    i, j = cKDTree(spots.xy).query_pairs(NEIGHBOUR_REACH * spots.pitch, output_type="ndarray").T
    ring = sp.csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(n, n))
    degree = ring.sum(axis=0)
    lost = np.where(degree > 0, share, 0.0)
    return sp.csr_array(sp.diags_array(1 - lost) + ring @ sp.diags_array(lost / np.maximum(degree, 1)))


def field(pattern: str, xy: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Logits of the types, (n_spots, k); but for blobs and layers, each has mean 0 and standard deviation 1."""
    if pattern == "blobs":
        return _blobs(xy, k, lengthscale, rng)
    if pattern == "layers":
        return _layers(xy[:, 1], k, lengthscale, rng)
    if pattern == "gp":
        logits = _waves(xy, k, lengthscale, rng)
    elif pattern == "gradient":
        angle = rng.uniform(0, 2 * np.pi) + np.arange(k) * 2 * np.pi / k
        logits = xy @ np.stack([np.cos(angle), np.sin(angle)])
    else:
        logits = rng.standard_normal((len(xy), k))
    centred = logits - logits.mean(axis=0)
    sd = centred.std(axis=0)
    return centred / np.where(sd > 0, sd, 1.0)


def _layers(y: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Parabolas around equally spaced depths: neighbours change places over a width of `lengthscale`."""
    width = max(np.ptp(y), 1.0) / k
    centre = y.min() + (rng.permutation(k) + 0.5) * width
    return -((y[:, None] - centre) ** 2) / (2 * width * lengthscale)


def _blobs(xy: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian bumps around random places, as many of each type."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    n_blobs = max(round(np.prod(high - low) / (np.pi * (BLOB_RADIUS * lengthscale) ** 2 * k)), 1)
    logits = np.zeros((len(xy), k))
    for kind in range(k):
        for centre in rng.uniform(low, high, (n_blobs, 2)):
            logits[:, kind] += BLOB_HEIGHT * np.exp(-((xy - centre) ** 2).sum(axis=1) / (2 * lengthscale**2))
    return logits


def _waves(xy: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random fields with a squared exponential kernel, as sums of random cosines (Fourier features)."""
    frequency = rng.normal(0, 1 / lengthscale, (2, N_WAVES))
    waves = np.cos(xy @ frequency + rng.uniform(0, 2 * np.pi, N_WAVES))
    return waves @ rng.normal(0, np.sqrt(2 / N_WAVES), (N_WAVES, k))


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)
