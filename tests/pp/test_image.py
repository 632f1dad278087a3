from __future__ import annotations

import numpy as np
import pytest

from scdance._checks import InputError
from scdance.pp import window_colors


@pytest.mark.parametrize("width", [0, 3, 9, 200])
def test_the_mean_is_that_of_the_pixels_in_the_window(width):
    rng = np.random.default_rng(0)
    image, places = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), rng.random((30, 2)) * [59, 39]
    half = round(width / 2)
    for place, found in zip(np.rint(places).astype(int), window_colors(image, places, width), strict=True):
        rows = slice(max(place[1] - half, 0), place[1] + half + 1)
        columns = slice(max(place[0] - half, 0), place[0] + half + 1)
        np.testing.assert_allclose(found, image[rows, columns].reshape(-1, 3).mean(axis=0))


def test_the_first_coordinate_is_the_column():
    image = np.zeros((10, 40, 3))
    image[:, :20, 0] = 1  # the left half is red
    np.testing.assert_array_equal(window_colors(image, np.array([[5, 9], [35, 0]]), 4)[:, 0], [1, 0])


@pytest.mark.parametrize(("place", "width"), [([41, 0], 2), ([0, 10], 2), ([-1, 0], 2), ([0, 0], -1)])
def test_places_beside_the_picture_and_negative_windows_are_refused(place, width):
    with pytest.raises(InputError):
        window_colors(np.zeros((10, 40, 3)), np.array([place]), width)
