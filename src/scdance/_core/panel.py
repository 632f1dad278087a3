"""Which genes are asked of a reference, and by which the cells are compared: what is asked is not read of the panel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scdance import _checks
from scdance._checks import InputError, WrongTypeError, listed, nearest
from scdance.pp import align_genes, shared_genes

from .method import Method
from .objects import check_kind, check_shape

N_ASKED = 2000  # genes that are answered where none is named


def panel(table: Any, model: Method, ref: Any, genes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Names of the genes that may be read of a panel, of those that both sides have, and of those that are asked.

    None for the last: nothing was named, and nothing is hidden. A fitted model has its genes already.
    """
    _checks.unique_names(table.var_names, "var")
    own = np.asarray(table.var_names, dtype=str)
    if model.is_fitted:
        common = np.asarray(model.features_["common"])
        visible = own[~np.isin(own, model.preps_["target"].var_names)]
        found = align_genes(common.tolist(), visible.tolist()).columns
        return visible, visible[found[found >= 0]], None
    _check_reference(ref, model)
    theirs = np.asarray(ref.var_names, dtype=str)
    asked = None if genes is None else _asked(genes, theirs)
    visible = own if asked is None else own[~np.isin(own, asked)]
    common = theirs[shared_genes(theirs.tolist(), visible.tolist())]
    if asked is None and len(common) == len(theirs):
        msg = (
            f"The object has all {len(theirs)} genes of the reference, so none is left to predict. To see how well "
            "genes that were measured are predicted, name some as `genes=[…]`: of these nothing is read."
        )
        raise InputError(msg)
    return visible, common, asked


def _check_reference(ref: Any, model: Method) -> None:
    """Refuse a reference that is none."""
    if ref is None:
        msg = f"{type(model).__name__} learns from a reference: pass cells that have more genes as `ref=`, an AnnData."
        raise InputError(msg)
    check_kind(ref, ("AnnData",))
    check_shape(ref, "The reference")
    _checks.unique_names(ref.var_names, "ref.var")


def _asked(genes: Any, there: np.ndarray) -> np.ndarray:
    """The genes that are asked, each once and in the reference."""
    names = [genes] if isinstance(genes, str) or not isinstance(genes, Iterable) else list(genes)
    if not names or not all(isinstance(name, str) for name in names):
        msg = f"genes must be names of genes of the reference, as in ['Gad1', 'Sst'], but is {genes!r}."
        raise (WrongTypeError if names else InputError)(msg)
    known = set(there.tolist())
    unknown = [name for name in names if name not in known]
    if unknown:
        hints = "".join(nearest(name, known) for name in unknown[:3])
        msg = (
            f"{len(unknown)} of the {len(names)} genes in `genes` are not in the reference, so nothing tells of them: "
            f"{listed(unknown)}.{hints} Leave them out, or name others of `ref.var_names`."
        )
        raise InputError(msg)
    again = [name for i, name in enumerate(names) if name in names[:i]] if len(set(names)) < len(names) else []
    if again:
        msg = f"`genes` names {listed(again)} more than once. Name each once."
        raise InputError(msg)
    return np.array(names, dtype=str)
