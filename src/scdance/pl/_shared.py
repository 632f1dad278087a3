"""Axes, categories and colours, the same for all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, nearest

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "0.8"  # what has no label, or is no rival
MOST_CATEGORIES = 100  # more than that are numbers, not groups


def axes(ax: Any, n_rows: int, n_columns: int, size: tuple[float, float]) -> tuple[Figure | None, np.ndarray]:
    """The user's Axes as an array (n_rows, n_columns), or those of a new figure with panels of `size` inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        figure, made = plt.subplots(
            n_rows,
            n_columns,
            figsize=(size[0] * n_columns, size[1] * n_rows),
            layout="constrained",
            squeeze=False,
        )
        return figure, made
    given = np.array(ax, dtype=object).ravel()
    if len(given) != n_rows * n_columns:
        msg = f"The figure has {n_rows * n_columns} panels; pass as many Axes as `ax=` (found {len(given)})."
        raise InputError(msg)
    return None, given.reshape(n_rows, n_columns)


def single(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The user's Axes, or that of a new figure."""
    return axes(ax, 1, 1, size)[1][0, 0]


def groups(adata: AnnData, key: str, *, what: str) -> pd.Categorical:
    """A column of `obs` as categories; cells whose value is missing (NaN or "") have none."""
    import pandas as pd

    if key not in adata.obs:
        msg = (
            f"No column {key!r} in `adata.obs`; it has {listed(adata.obs.columns)}."
            f"{nearest(key, map(str, adata.obs.columns))} Pass the column that holds the {what}."
        )
        raise MissingKeyError(msg)
    found = pd.Categorical(adata.obs[key])
    found = found.remove_categories([c for c in found.categories if isinstance(c, str) and not c])
    if len(found.categories) > MOST_CATEGORIES:
        msg = f"Column {key!r} has {len(found.categories)} different values, so it holds no {what}."
        raise InputError(msg)
    return found


def probabilities(adata: AnnData, key: str) -> pd.DataFrame:
    """Probabilities of the types by a run of `annotate` or `transfer_labels`, (n_obs, n_types)."""
    name = f"{key}_proba"
    if name not in adata.obsm:
        msg = (
            f"No {name!r} in `adata.obsm`, which has {listed(adata.obsm)}.{nearest(name, map(str, adata.obsm))} Pass "
            "the `key_added` of a run of `scdance.tl.annotate` or `scdance.tl.transfer_labels`, or the name of its "
            "method."
        )
        raise MissingKeyError(msg)
    return adata.obsm[name]


def colors(adata: AnnData, key: str, categories: pd.Index) -> list[str]:
    """One colour per category: those in ``uns[f"{key}_colors"]`` if there are enough, else a palette."""
    n = len(categories)
    given = list(adata.uns.get(f"{key}_colors", []))
    if n and len(given) >= n:
        return [str(color) for color in given[:n]]
    return palette(n)


def palette(n: int) -> list[str]:
    """Colours that can be told apart, as far as `n` can."""
    from matplotlib import colormaps as maps
    from matplotlib.colors import to_hex

    if n <= 20:  # the bright half of tab20 is tab10
        shades = maps["tab20"]([*range(0, 20, 2), *range(1, 20, 2)])
    else:
        shades = maps["turbo"](np.linspace(0.02, 0.98, n))
    return [to_hex(color) for color in shades[:n]]


def in_order(categories: pd.Index) -> list[int]:
    """Positions of the categories as they are to be listed: numbers by value ("2" before "10"), else as is."""
    names = [str(name) for name in categories]
    positions = list(range(len(names)))
    return sorted(positions, key=lambda i: int(names[i])) if all(n.isdecimal() for n in names) else positions
