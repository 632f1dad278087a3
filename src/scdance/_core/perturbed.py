"""Which cells of a screen are read: the control, and those of the perturbations that teach, but none that is asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scdance import _checks
from scdance._checks import InputError, WrongTypeError, listed, nearest, warn
from scdance._settings import logger

from .cells import Screen, perturbed_genes
from .method import Method

WHAT = "the column that says what is perturbed in each cell"
CONTROL: tuple[str, ...] = ()  # its genes


def screened(
    adata: Any, model: Method, key: str | None, control: str, targets: Any, split_key: str | None
) -> tuple[np.ndarray, Screen]:
    """Rows of the cells to read, and what is perturbed in them.

    A fitted model gets the control cells only, without a `key` all cells for such.
    """
    asked = [] if targets is None else _asked(targets, control)
    if key is None:
        if not model.is_fitted:
            raise InputError(_no_key(adata, model))
        return np.arange(adata.n_obs), Screen([control], np.zeros(adata.n_obs, dtype=np.int32), asked)
    found, codes = coded(adata, key, control)
    names = list(found.values())
    if CONTROL not in found:
        msg = (
            f"No cell of `adata.obs[{key!r}]` is {control!r}; it has {listed(names, 30)}.{nearest(control, names)} "
            "Pass the name of the unperturbed cells as `control=`."
        )
        raise InputError(msg)
    if (codes < 0).any():
        n_missing = int((codes < 0).sum())
        warn(f"{n_missing} of {adata.n_obs} cells have no perturbation in `adata.obs[{key!r}]` and are left out.")
    if split_key is not None:
        taught = np.where(_teach(adata, split_key), codes, -1)
        if targets is None:
            asked = sorted(names[i] for i in np.setdiff1d(codes, [*taught, -1, 0]))
        codes = taught
    place = {genes: i for i, genes in enumerate(found)}
    hidden = [place.get(perturbed_genes(name, control), -1) for name in asked]
    read = ~np.isin(codes, [*hidden, -1]) & ((codes == 0) | (not model.is_fitted))
    rows = np.flatnonzero(read)
    there, own = np.unique(codes[rows], return_inverse=True)
    _refuse_too_few(there, asked, key, model)
    genes = {name: {*perturbed_genes(name, control)} for name in asked}
    measured = {*adata.var_names}
    known = measured.union(*found)
    unknown = [name for name in asked if not genes[name] <= known]
    if unknown:
        warn(
            f"Nothing tells of the genes of {len(unknown)} of the {len(asked)} targets ({listed(unknown)}): they are "
            "neither perturbed in the screen nor in the object, so the answer is that for any gene."
            f"{nearest(unknown[0], names)}"
        )
    absent = [name for name in asked if not genes[name] <= measured]
    if absent:
        logger.info("%s: genes of %d targets are not in the object: %s", model.name, len(absent), listed(absent))
    return rows, Screen([control, *(names[i] for i in there if i)], own.astype(np.int32), asked)


def coded(adata: Any, key: str, control: str) -> tuple[dict[tuple[str, ...], str], np.ndarray]:
    """The perturbations of a column by their genes, under the first name that each has, the control first if there.

    And the position among them of that of each cell, (n_obs,) int, −1 where it has none. What is perturbed is a set of
    genes: "B+A" is "A+B", and cells of the one do not teach where the other is asked.
    """
    import pandas as pd

    values = _checks.column(adata.obs, key, where="adata.obs", what=WHAT, argument="perturbation_key")
    texts = pd.Categorical(values.astype(str).where(values.notna(), ""))
    genes = {text: perturbed_genes(text, control) for text in texts.categories if text}
    found: dict[tuple[str, ...], str] = {}
    for text in sorted(genes, key=lambda text: genes[text] != CONTROL):
        found.setdefault(genes[text], text)
    place = {each: i for i, each in enumerate(found)}
    return found, np.array([place[genes[text]] if text else -1 for text in texts.categories])[texts.codes]


def check_asked(cells: Any) -> None:
    """Refuse a screen of which nothing is asked."""
    screen = getattr(cells, "screen", None)
    if screen is not None and not screen.targets:
        msg = (
            "Say which perturbations to predict, as in `targets=['STAT1', 'STAT1+IRF1']`; or pass a column that says "
            "which cells teach as `split_key=`, and those that none teaches are predicted. Cells of the targets are "
            "never read."
        )
        raise InputError(msg)


def _asked(targets: Any, control: str) -> list[str]:
    """The perturbations that are asked for, each once."""
    names = [targets] if isinstance(targets, str) or not isinstance(targets, Iterable) else list(targets)
    if not all(isinstance(name, str) for name in names):
        msg = f"targets must be names of perturbations, as in ['STAT1', 'STAT1+IRF1'], but is {targets!r}."
        raise WrongTypeError(msg)
    genes = [perturbed_genes(name, control) for name in names]
    if CONTROL in genes:
        msg = (
            f"{names[genes.index(CONTROL)]!r} in `targets` is the control, of which nothing is to be predicted. Leave "
            "it out, or pass another name of the unperturbed cells as `control=`."
        )
        raise InputError(msg)
    again = [name for i, name in enumerate(names) if genes[i] in genes[:i]]
    if again:
        msg = f"`targets` names {listed(again)} more than once; genes joined by '+' have no order. Name each once."
        raise InputError(msg)
    return names


def _no_key(adata: Any, model: Method) -> str:
    """The message for a screen without a column of perturbations."""
    there = listed(name for name, column in adata.obs.items() if column.dtype.kind not in "iufb")
    return (
        f"{type(model).__name__} learns from a screen: pass {WHAT} as `perturbation_key=`. Columns of `adata.obs` that "
        f"hold names: {there}."
    )


def _teach(adata: Any, split_key: str) -> np.ndarray:
    """Which cells a column says teach, (n_obs,) bool."""
    what = "the column that says which cells teach"
    said = _checks.column(adata.obs, split_key, where="adata.obs", what=what, argument="split_key")
    return _checks.teaching(said, split_key)  # type: ignore[no-any-return]


def _refuse_too_few(there: np.ndarray, asked: list[str], key: str, model: Method) -> None:
    """Refuse cells among which no control is left or, to learn from, nothing else."""
    lacking = "control cells" if 0 not in there else "perturbed cells"
    if 0 not in there or (len(there) == 1 and not model.is_fitted):
        msg = (
            f"Without the cells that are asked for ({listed(asked)}) or do not teach, `adata.obs[{key!r}]` has no "
            f"{lacking} to learn from. Ask for fewer perturbations in one call, as `targets=`."
        )
        raise InputError(msg)
