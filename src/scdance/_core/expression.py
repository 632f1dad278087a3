"""Values of modelled genes as a layer of all genes, and in which unit: for tools that estimate expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError
from scdance._settings import settings
from scdance.pp import blocks, canonical

from .cells import Cells
from .task import Slot

TARGETS = {"lognorm": 1e4, "log1p_250": 250.0}  # counts that a cell is brought to, by the unit
DENSE_FROM = 0.5  # share of the genes that is modelled, from which a dense layer is the smaller one
BYTES = {True: 4, False: 8}  # of an entry, dense and sparse
ROWS = 1024  # made dense at once


def in_unit(counts: Any, depth: np.ndarray, unit: str) -> Any:
    """Counts, dense or CSR, in the unit of a result: "counts", "log1p", or "lognorm" and "log1p_250" by the `depth`."""
    if not unit.startswith("log"):
        return counts
    is_sparse = sp.issparse(counts)
    if unit in TARGETS:
        scale = (TARGETS[unit] / np.maximum(depth, 1e-12)).astype(np.float32)
        counts = canonical(sp.diags_array(scale) @ counts) if is_sparse else counts * scale[:, None]
    return canonical(counts).log1p() if is_sparse else np.log1p(counts)


def out_of_unit(values: np.ndarray, depth: np.ndarray, unit: str) -> np.ndarray:
    """Counts from values in a unit: the way back, where the unit was made from counts."""
    if unit in TARGETS:
        return np.expm1(values) * (depth / TARGETS[unit]).astype(np.float32)[:, None]  # type: ignore[no-any-return]
    return np.expm1(values) if unit == "log1p" else values


def refuse_large(cells: Cells, genes: Any, n_layers: int) -> None:
    """Stop before a layer is computed that would not be wanted in memory; `genes` are those asked for, None: all."""
    n_genes = cells.n_vars if genes is None else len(genes)
    dense = n_genes >= DENSE_FROM * cells.n_vars_in
    size = n_layers * cells.n_obs_in * BYTES[dense] * (cells.n_vars_in if dense else n_genes)
    _refuse_size(size, cells.n_obs_in, n_genes, n_layers * BYTES[False])


def refuse_wide(n_obs: int, genes: Any) -> None:
    """The same where the result has these genes only, dense."""
    _refuse_size(n_obs * len(genes) * BYTES[True], n_obs, len(genes), BYTES[True])


def _refuse_size(n_bytes: int, n_obs: int, n_genes: int, of_entry: int) -> None:
    """Stop where a result of so many bytes, `of_entry` for each cell and gene, is too large."""
    size = n_bytes / 1e9
    if size > settings.max_result_gb:
        fitting = max(int(settings.max_result_gb * 1e9 / (n_obs * of_entry)), 1)
        msg = (
            f"The result would take {size:.1f} GB ({n_obs} cells × {n_genes} genes), but "
            f"`scdance.settings.max_result_gb` is {settings.max_result_gb:g}. Ask for the genes that you need, some "
            f"{fitting} at most, as `genes=[…]`, or set a larger `scdance.settings.max_result_gb`."
        )
        raise InputError(msg)


def in_layer(slot: Slot, value: np.ndarray, result: dict[str, Any], cells: Any, var_names: Any, unit: str) -> Any:
    """A part of a result with one value per gene, or per cell and gene, for all genes and cells of the object."""
    columns = cells.prep.find(np.asarray(var_names))
    if slot.kind == "flags":
        out = np.zeros(len(var_names), dtype=bool)
        out[columns[value & (columns >= 0)]] = True
        return out
    if slot.kind in ("genes", "profiles"):
        per_gene = np.full((len(var_names), *value.shape[1:]), slot.empty, dtype=np.float32)
        per_gene[columns[columns >= 0]] = value[columns >= 0]
        return per_gene
    modelled = columns[np.asarray(result["modelled"], dtype=bool)] if "modelled" in result else columns
    value, modelled = value[:, modelled >= 0], modelled[modelled >= 0]
    rest = None
    if np.isnan(slot.empty) and (len(modelled) < len(var_names) or cells.n_obs < cells.n_obs_in):
        rest = _observed(cells, unit, len(var_names), modelled)
    if len(modelled) < DENSE_FROM * len(var_names):
        return _sparse(cells, value, modelled, rest, len(var_names))
    out = np.zeros((cells.n_obs_in, len(var_names)), dtype=np.float32)
    if rest is not None:
        for here, block in blocks(rest, ROWS):
            out[here] = block.toarray()
    for start in range(0, len(value), ROWS):
        out[np.ix_(cells.rows[start : start + ROWS], modelled)] = value[start : start + ROWS]
    return out


def _observed(cells: Cells, unit: str, n_vars: int, modelled: np.ndarray) -> sp.csr_matrix:
    """The input of all cells in the unit of the result, without what was modelled of the cells that took part."""
    whole, part = cells.extra["whole"], []
    depth = np.ones(cells.n_obs_in)
    depth[cells.rows] = cells.depth
    kept, took_part = np.ones(n_vars, dtype=np.float32), np.zeros(cells.n_obs_in, dtype=bool)
    kept[modelled], took_part[cells.rows] = 0, True
    unit = "" if cells.prep.log_input else unit
    for here, block in blocks(whole, ROWS):
        values = in_unit(block, depth[here], unit)
        others = sp.diags_array((~took_part[here]).astype(np.float32)) @ values
        part.append(canonical(others + sp.diags_array(took_part[here].astype(np.float32)) @ values.multiply(kept)))
    return sp.vstack(part, format="csr")


def _sparse(cells: Cells, value: np.ndarray, modelled: np.ndarray, rest: Any, n_vars: int) -> sp.csr_matrix:
    place = sp.csr_matrix(
        (np.ones(len(modelled), dtype=np.float32), (np.arange(len(modelled)), modelled)), (len(modelled), n_vars)
    )
    parts = []
    rows = np.full(cells.n_obs_in, -1)
    rows[cells.rows] = np.arange(cells.n_obs)
    for start in range(0, cells.n_obs_in, ROWS):
        here = rows[start : start + ROWS]
        some = np.zeros((len(here), len(modelled)), dtype=np.float32)
        some[here >= 0] = value[here[here >= 0]]
        block = sp.csr_matrix(some) @ place
        parts.append(canonical(block if rest is None else block + rest[start : start + ROWS]))
    return sp.vstack(parts, format="csr")
