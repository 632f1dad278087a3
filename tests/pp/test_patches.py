"""Squares of a picture, and what is computed of them, against written-out formulas."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import local_binary_pattern

from scdance import pp


@pytest.fixture(scope="module")
def squares() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(5, 9, 9, 3), dtype=np.uint8)


def test_squares_are_cut_where_they_should_be():
    image = np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8)
    places = np.array([[10, 7], [30, 20], [15.2, 9.7]])
    found = np.concatenate(list(pp.patches(image, places, 5, batch=2)))
    for square, (column, row) in zip(found, [(10, 7), (30, 20), (15, 10)], strict=True):
        np.testing.assert_array_equal(square, image[row - 2 : row + 3, column - 2 : column + 3])


def test_columns_are_x_and_rows_are_y():
    image = np.zeros((20, 50, 3), dtype=np.uint8)
    image[:, :25, 0] = 255  # the left half is red
    left, right = next(pp.patches(image, np.array([[5, 15], [45, 5]]), 4))
    assert (left[:, :, 0] == 255).all()
    assert not right.any()


def test_beside_the_border_the_nearest_pixels_are_repeated():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)[:, :, None].repeat(3, axis=2)
    corner = next(pp.patches(image, np.array([[0, 0]]), 3))[0, :, :, 0]
    assert corner.tolist() == [[0, 0, 1], [0, 0, 1], [4, 4, 5]]


@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_float_pictures_become_bytes(unit: float):
    image = np.array([[[0.0, 0.5, 1.0]]]).repeat(4, axis=0).repeat(4, axis=1) * unit
    assert next(pp.patches(image, np.array([[1, 1]]), 2))[0, 0, 0].tolist() == [0, 128, 255]


def test_colours_are_moments(squares: np.ndarray):
    found = pp.patch_features(squares)
    x = squares.reshape(5, 81, 3).astype(float)
    np.testing.assert_allclose(found[:, :3], x.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found[:, 3:6], x.std(axis=1), rtol=1e-5)
    third = ((x - x.mean(axis=1, keepdims=True)) ** 3).mean(axis=1)
    np.testing.assert_allclose(found[:, 6:9] ** 3, third, rtol=1e-3)


def test_texture_is_that_of_each_square_alone(squares: np.ndarray):
    found = pp.patch_features(squares)
    for square, features in zip(squares, found, strict=True):
        grey = np.pad(np.rint(square @ [0.299, 0.587, 0.114]).astype(np.uint8), 2, mode="edge")
        for radius, part in ((1, features[9:19]), (2, features[19:29])):
            codes = local_binary_pattern(grey, 8, radius, method="uniform")[2:-2, 2:-2]
            np.testing.assert_allclose(part, np.bincount(codes.astype(int).ravel(), minlength=10) / 81, atol=1e-6)
        np.testing.assert_array_equal(pp.patch_features(square[None])[0], features)


def test_turning_a_square_by_a_right_angle_keeps_its_texture():
    # of single pixels: near the border the repeated pixels turn with it
    square = np.random.default_rng(1).integers(0, 256, size=(1, 30, 30, 3), dtype=np.uint8)
    turned = np.rot90(square, axes=(1, 2)).copy()
    np.testing.assert_allclose(pp.patch_features(turned)[0, :19], pp.patch_features(square)[0, :19], rtol=1e-4)


def test_texture_tells_stripes_from_noise_of_the_same_colours():
    rng = np.random.default_rng(0)
    stripes = np.zeros((20, 16, 16, 3), dtype=np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 200
    noise = rng.permuted(stripes.reshape(20, 256, 3)[:, :, 0], axis=1).reshape(20, 16, 16)[..., None].repeat(3, axis=3)
    a, b = pp.patch_features(stripes), pp.patch_features(noise)
    np.testing.assert_allclose(a[:, :9], b[:, :9], rtol=1e-5)
    assert np.abs(a[:, 9:].mean(axis=0) - b[:, 9:].mean(axis=0)).max() > 0.2
