"""What a picture of a tissue shows around its spots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scdance._checks import InputError

LUMA = np.array([0.299, 0.587, 0.114])  # grey of red, green and blue, ITU-R BT.601
FAR = 2  # pixels: the larger distance of a texture
N_PATTERNS = 10  # of eight neighbours: nine uniform ones up to rotation, and all others


def window_colors(image: np.ndarray, places: np.ndarray, width: float) -> np.ndarray:
    """Mean colour of the square around each place of a picture.

    The windows are 2 · round(width / 2) + 1 pixels wide, so that the place is in the middle, and are cut at the border.
    Sums of all pixels above and to the left make every window cost the same, however wide it is.

    Parameters
    ----------
    image
        Picture, (height, width, n_channels).
    places
        Column and row of each place in it, (n, 2), at most half a pixel beside it.
    width
        Width of the square in pixels, at least 0.

    Returns
    -------
    Mean of each channel, (n, n_channels) float64, in the unit of the picture.

    Raises
    ------
    InputError
        If a place lies beside the picture, or the width is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> image = np.zeros((2, 4, 3))
    >>> image[:, :2, 0] = 1  # the left half is red
    >>> pp.window_colors(image, np.array([[0, 1], [3, 0]]), width=0).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if not width >= 0:
        msg = f"width={width!r}, but a window has at least 0 pixels."
        raise InputError(msg)
    column, row = np.rint(np.asarray(places, dtype=np.float64)).T
    if not (np.all((row >= 0) & (row < image.shape[0])) and np.all((column >= 0) & (column < image.shape[1]))):
        msg = (
            f"Places lie beside the image of {image.shape[1]} × {image.shape[0]} pixels: their columns run from "
            f"{column.min():.0f} to {column.max():.0f}, their rows from {row.min():.0f} to {row.max():.0f}."
        )
        raise InputError(msg)
    half = round(width / 2)
    top, left = (np.maximum(each.astype(np.int64) - half, 0) for each in (row, column))
    bottom = np.minimum(row.astype(np.int64) + half + 1, image.shape[0])
    right = np.minimum(column.astype(np.int64) + half + 1, image.shape[1])
    area = (bottom - top) * (right - left)
    out = np.empty((len(area), image.shape[2]))
    for channel in range(image.shape[2]):
        above = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
        np.cumsum(image[:, :, channel], axis=0, dtype=np.float64, out=above[1:, 1:])
        np.cumsum(above[1:, 1:], axis=1, out=above[1:, 1:])
        out[:, channel] = (above[bottom, right] - above[top, right] - above[bottom, left] + above[top, left]) / area
    return out


def patches(image: np.ndarray, places: np.ndarray, size: int, *, batch: int = 128) -> Iterator[np.ndarray]:
    """Squares of a picture around places, some at a time.

    Beside the border the nearest pixels are repeated.

    Parameters
    ----------
    image
        Picture, (height, width, 3), uint8, or float in [0, 1] or [0, 255].
    places
        Column and row of each place in it, (n, 2).
    size
        Height and width of a square in pixels.
    batch
        Squares that are cut out at once.

    Returns
    -------
    Squares in the order of the places, (at most `batch`, size, size, 3) uint8.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> image = np.zeros((2, 4, 3), dtype=np.uint8)
    >>> image[:, :2] = 255  # the left half is white
    >>> [square] = pp.patches(image, np.array([[0, 0], [2, 1]]), 2)
    >>> square[:, :, :, 0].tolist()
    [[[255, 255], [255, 255]], [[255, 0], [255, 0]]]
    """
    of_one = image.dtype.kind == "f" and float(image.max(initial=0)) <= 1
    corner = np.rint(np.asarray(places, dtype=np.float64) - (size - 1) / 2 - 1e-9).astype(np.int64)  # halves go down
    columns = np.clip(corner[:, :1] + np.arange(size), 0, image.shape[1] - 1)
    rows = np.clip(corner[:, 1:] + np.arange(size), 0, image.shape[0] - 1)
    for start in range(0, len(corner), batch):
        here = slice(start, start + batch)
        found = image[rows[here, :, None], columns[here, None, :]]
        if found.dtype.kind == "f":
            found = np.clip(np.rint(found * 255 if of_one else found), 0, 255)
        yield found.astype(np.uint8)


def patch_features(patches: np.ndarray) -> np.ndarray:
    """Colours and texture of squares of a picture: hand-made features that need no trained net.

    Colour: mean, standard deviation and cube root of the third central moment of each channel. Texture: how frequent
    each uniform local binary pattern [Ojala2002]_ of the eight grey pixels around a pixel is, at distances 1 and 2.

    Parameters
    ----------
    patches
        Squares, (n, height, width, 3) uint8.

    Returns
    -------
    (n, 29) float32: 9 numbers of the colour in units of the pixels, and twice 10 shares that sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> white = np.full((1, 8, 8, 3), 255, dtype=np.uint8)
    >>> features = pp.patch_features(white)
    >>> features.shape, features[0, :4].tolist()
    ((1, 29), [255.0, 255.0, 255.0, 0.0])
    """
    from skimage.feature import local_binary_pattern

    n, height, width, _ = patches.shape
    pixels = patches.reshape(n, height * width, 3).astype(np.float64)
    mean = pixels.mean(axis=1)
    off = pixels - mean[:, None]
    parts = [mean, np.sqrt((off**2).mean(axis=1)), np.cbrt((off**3).mean(axis=1))]
    grey = np.rint(patches @ LUMA).astype(np.uint8)
    grey = np.pad(grey, ((0, 0), (FAR, FAR), (FAR, FAR)), mode="edge")  # so that no pattern reaches the next square
    one = grey.reshape(n * (height + 2 * FAR), width + 2 * FAR)
    for radius in range(1, FAR + 1):
        codes = local_binary_pattern(one, 8, radius, method="uniform").astype(np.int64).reshape(grey.shape)
        inner = codes[:, FAR:-FAR, FAR:-FAR].reshape(n, -1)
        counts = np.bincount((inner + N_PATTERNS * np.arange(n)[:, None]).ravel(), minlength=n * N_PATTERNS)
        parts.append(counts.reshape(n, N_PATTERNS) / inner.shape[1])
    return np.concatenate(parts, axis=1).astype(np.float32)
