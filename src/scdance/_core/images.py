"""Pictures of a tissue, and where its spots lie in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, nearest
from scdance.graph import pitch

from .cells import Image
from .objects import kind_of

SPOT = 30  # pixels between neighbouring spots that a level of a picture should have


def read_images(
    data: Any,
    table: Any,
    coords: np.ndarray | None,
    slices: tuple[np.ndarray, list[str]] | None,
    image_key: str | Mapping[str, str] | None,
    *,
    coordinate_system: str,
) -> tuple[Image, ...] | None:
    """The picture of each slice, None if there is none; nothing is loaded before a method looks at the pixels.

    `slices` are codes and names. An AnnData keeps pictures in ``uns["spatial"]``, by library; a SpatialData in its
    images, which `image_key` names, by slice if there are several.
    """
    if coords is None:
        if image_key is not None:
            msg = "An image is of use only with coordinates; leave `image_key=` out."
            raise InputError(msg)
        return None
    codes, names = (np.zeros(len(coords), dtype=int), [""]) if slices is None else slices
    in_elements = kind_of(data) == "SpatialData" and len(data.images) > 0
    if not in_elements and not any(held.get("images") for held in table.uns.get("spatial", {}).values()):
        if image_key is not None:
            msg = f"There is no image {image_key!r}: neither `uns['spatial']` nor a SpatialData holds any."
            raise MissingKeyError(msg)
        return None
    out = []
    for code, name in enumerate(names):
        rows = np.flatnonzero(codes == code)
        key = image_key.get(name) if isinstance(image_key, Mapping) else image_key
        if in_elements:
            load, matrix = _element(data, name, key, coordinate_system, pitch(coords))
        else:
            load, matrix = _library(table, name, key)
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        places = coords[rows, :2] @ matrix[:2, :2].T + matrix[:2, 2]
        out.append(Image(load=load, rows=rows, places=places, scale=scale))
    return tuple(out)


def _library(table: Any, name: str, key: str | None) -> tuple[Callable[[], np.ndarray], np.ndarray]:
    """Loader and place of a picture in ``uns["spatial"]``: of the library of this name, or of the only one."""
    libraries = {str(each): held for each, held in table.uns["spatial"].items() if held.get("images")}
    if not name and len(libraries) == 1:
        name = next(iter(libraries))
    if name not in libraries:
        wanted = f"none of slice {name!r}" if name else "the spots are not told apart"
        msg = (
            f"`uns['spatial']` holds pictures of {listed(libraries)}, but {wanted}. Pass the column of "
            "`obs` with these names as `library_key=`."
        )
        raise MissingKeyError(msg)
    images = libraries[name]["images"]
    key = key or ("hires" if "hires" in images else next(iter(images), ""))
    if key not in images:
        msg = f"Library {name!r} has no image {key!r}; it has {listed(images)}.{nearest(key, images)}"
        raise MissingKeyError(msg)
    scale = float(libraries[name].get("scalefactors", {}).get(f"tissue_{key}_scalef", 1.0))
    return lambda: np.asarray(images[key]), np.diag([scale, scale, 1.0])


def _element(
    sdata: Any, name: str, key: str | None, coordinate_system: str, spacing: float
) -> tuple[Callable[[], np.ndarray], np.ndarray]:
    """Loader and place of an image of a SpatialData, at the coarsest level that still shows the spots."""
    from spatialdata.transformations import get_transformation

    there = [
        each for each, image in sdata.images.items() if coordinate_system in get_transformation(image, get_all=True)
    ]
    if key is None:
        if len(there) != 1:
            of, as_dict = (f" for slice {name!r}", f", as in {{{name!r}: …}}") if name else ("", "")
            msg = (
                f"The SpatialData has {len(there)} images in coordinate system {coordinate_system!r} "
                f"({listed(there)}); pass the one to use{of} as `image_key=`{as_dict}."
            )
            raise InputError(msg)
        key = there[0]
    if key not in there:
        msg = (
            f"The SpatialData has no image {key!r} in coordinate system {coordinate_system!r}; it has {listed(there)}."
            f"{nearest(key, there)}"
        )
        raise MissingKeyError(msg)
    element = sdata.images[key]
    levels = [element]
    if hasattr(element, "children"):  # several resolutions, the finest first
        levels = [next(iter(child.data_vars.values())) for child in element.children.values()]
    found = None
    for level in levels:
        to_world = get_transformation(level, to_coordinate_system=coordinate_system).to_affine_matrix(
            input_axes=("x", "y"), output_axes=("x", "y")
        )
        matrix = np.linalg.inv(to_world)
        if found is not None and spacing * np.sqrt(abs(np.linalg.det(matrix[:2, :2]))) < SPOT:
            break
        found = level, matrix
    assert found is not None
    level, matrix = found
    return lambda: np.asarray(level.transpose("y", "x", "c").data), matrix
