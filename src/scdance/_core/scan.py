"""What a matrix holds: counts, fractions of counts or log-normalised values; and what cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, listed, warn
from scdance._settings import logger
from scdance.pp import Rows, blocks

from .method import Method

LOOKED_AT = 256  # cells that tell whether counts were scaled and logged
LOGGED_BELOW = 25  # e^25 counts of one gene in one cell do not occur, so larger values are not logarithms


def scan(
    x: Rows, adata: Any, where: str, model: Method, *, profiles: bool = False, proteins: bool = False
) -> tuple[str, np.ndarray]:
    """Go once through the matrix: refuse what `model` cannot use, and tell what it holds.

    Parameters
    ----------
    x
        The matrix, (n_obs, n_vars).
    adata, where
        The object and the name of the matrix in it, for messages.
    model
        The method, which says whether it needs counts.
    profiles
        The rows are mean profiles of types, so fractions are no wonder.
    proteins
        The values are of proteins, which are normalised in ways that leave negative values and no constant sum.

    Returns
    -------
    Kind of the values ("counts", "fractional counts" or "log-normalised"), and depth of each cell, (n_obs,).
    """
    depth, linear = np.zeros(x.shape[0]), np.zeros(x.shape[0])
    bad, n_bad = np.zeros(x.shape[1], dtype=bool), 0
    low, high, fractions, first_rows = 0.0, 0.0, 0, None
    for here, block in blocks(x):
        if first_rows is None:
            first_rows = block[:LOOKED_AT]
        values = block.data
        finite = np.isfinite(values)
        if not finite.all():
            n_bad += int((~finite).sum())
            bad[block.indices[~finite]] = True
            continue
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        part = np.abs(values - np.rint(values)) > 1e-6  # what a detour over floats leaves is no fraction
        fractions += int(part.sum())
        depth[here] = np.asarray(abs(block).sum(axis=1, dtype=np.float64)).ravel()
        if fractions and high < LOGGED_BELOW:
            linear[here] = np.asarray(block.expm1().sum(axis=1, dtype=np.float64)).ravel()
    if n_bad:
        first = np.flatnonzero(bad)
        msg = (
            f"`{where}` contains {n_bad} values that are NaN or infinite, in {len(first)} genes "
            f"({listed(adata.var_names[first], 3)}). Replace or remove them first."
        )
        raise InputError(msg)
    if proteins and "counts" not in model.needs and fractions and (low < 0 or high < LOGGED_BELOW):
        logger.info("%s: `%s` is normalised already and is taken as it is", model.name, where)
        return "log-normalised", depth
    _refuse_range(low, high, adata, where, model)
    if not fractions or profiles:
        return "counts", depth
    made_from, unit = _imputed_from(adata, where[max(where.find("layers["), 0) :])
    if unit.startswith("log") or (not unit and _looks_logged(adata, where, linear, high, first_rows)):
        if "counts" in model.needs:
            msg = (
                f"`{where}` looks log-normalised (values up to {high:.3g}, with fractions), but "
                f"{model.name or type(model).__name__} needs raw counts.{_instead(adata, where)}"
            )
            raise InputError(msg)
        logger.info("%s: `%s` is log-normalised already and is taken as it is", model.name, where)
        return "log-normalised", depth
    if made_from and "counts" in model.needs:
        warn(
            f"`{where}` was written by scdance's 'impute': it holds estimates, each made from many cells, but "
            f"{model.name or type(model).__name__} needs raw counts. Pass those that the estimates were made from, "
            f"`{made_from}`{', by leaving `layer=` out' * (made_from == 'X')}."
        )
        return "fractional counts", depth
    warn(
        f"{fractions} values of `{where}` have fractions (up to {high:.3g}); they are taken as counts corrected for "
        f"background or estimated by RSEM. If they are normalised, pass the raw counts as `{_argument(where)}=`."
    )
    return "fractional counts", depth


def _refuse_range(low: float, high: float, adata: Any, where: str, model: Method) -> None:
    """Refuse negative values and counts too large for float32."""
    if low < 0:
        needs = "counts" if "counts" in model.needs else "counts or log-normalised values"
        msg = (
            f"`{where}` has negative values (down to {low:.3g}): it looks scaled, but "
            f"{model.name or type(model).__name__} needs {needs}.{_instead(adata, where)}"
        )
        raise InputError(msg)
    if high >= 2**24:  # float32 rounds 2**24 + 1 to 2**24
        msg = (
            f"`{where}` has values up to {high:.3g}, but counts must stay below 2**24 = 16,777,216 to be held exactly."
            f"{_instead(adata, where)}"
        )
        raise InputError(msg)


def _instead(adata: Any, where: str) -> str:
    """Sentences that say what else the object holds and what to type."""
    kept = [f"layers[{each!r}]" for each in adata.layers]
    kept += [name for name, value in (("X", adata.X), ("raw", adata.raw)) if value is not None]
    others = [name for name in kept if name != where.removeprefix("ref.")]
    there = f" The object also holds {listed(others)}." if others else ""
    name = "ref" if where.startswith("ref.") else "adata"
    code = f"`{name}.layers['counts'] = {name}.raw[:, {name}.var_names].X`"
    raw = f" (from raw: {code})" if "raw" in others else ""
    return f"{there} Pass the layer with raw counts as `{_argument(where)}=`{raw}."


def _argument(where: str) -> str:
    """What names the layer of the object that `where` belongs to."""
    return "ref_layer" if where.startswith("ref.") else "layer"


def _imputed_from(adata: Any, where: str) -> tuple[str, str]:
    """What a layer was made from and the unit that it is in, if a run of imputation wrote it; else "" and ""."""
    for run in adata.uns.get("scdance", {}).get("impute", {}).values():
        if where in [f"layers[{str(slot).removeprefix('layers/')!r}]" for slot in run.get("slots", [])]:
            unit = "lognorm" if run["input"]["kind"] == "log-normalised" else run["params"].get("output", "counts")
            return str(run["input"]["layer"]), str(unit)
    return "", ""


def _looks_logged(adata: Any, where: str, linear: np.ndarray, high: float, rows: Any) -> bool:
    if high >= LOGGED_BELOW:
        return False
    if where.endswith("X") and "log1p" in adata.uns:
        return True
    sums = linear[linear > 0]
    if len(sums) and float(np.std(sums)) < 1e-3 * float(np.mean(sums)):
        return True
    cells = [row[row > 0] for row in np.split(rows.data, rows.indptr[1:-1])]
    return not _multiples(cells) and any(_multiples([np.expm1(row * base) for row in cells]) for base in (1, np.log(2)))


def _multiples(cells: list[np.ndarray]) -> bool:
    """Whether the values of each cell are whole multiples of its smallest, as counts are that were only scaled."""
    ratios = np.concatenate([row / row.min() for row in cells if len(row)] or [np.empty(0)])
    ratios = ratios[(ratios > 1.5) & (ratios < 20)]  # the smallest itself tells nothing, large ones are whole by chance
    return len(ratios) > 0 and float(np.mean(np.abs(ratios - np.rint(ratios)) < 0.01)) > 0.95
