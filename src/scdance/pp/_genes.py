"""The one aligner of gene names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scdance._checks import InputError, listed, warn

FEWEST_SHARED, FEW_SHARED = 10, 100  # genes of a reference and a query: below, an error; below, a warning
_ENSEMBL = re.compile(r"^ENS([A-Z]{0,4})G\d{6,}", re.IGNORECASE)
_VERSION = re.compile(r"\.\d+$")
_SPECIES = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish"}


@dataclass(frozen=True)
class Alignment:
    """Where the genes of a model lie in a query.

    Attributes
    ----------
    columns
        For each wanted gene its column in the query, −1 where it is missing, (n_wanted,) int.
    n_shared, n_missing, n_extra
        Wanted genes found, wanted genes absent, query genes that nobody wants.
    """

    columns: np.ndarray
    n_shared: int
    n_missing: int
    n_extra: int


def kind_of_names(names: Sequence[str]) -> str:
    """Guess what identifies the genes: "Ensembl ids (human)", "gene symbols (mouse)", "numbers", …"""
    some = [str(name) for name in names[:: max(1, len(names) // 500)]]
    if not some:
        return "nothing"
    if np.mean([name.isdigit() for name in some]) > 0.9:
        return "numbers"
    found = [m for name in some if (m := _ENSEMBL.match(name))]
    if len(found) > 0.5 * len(some):
        prefix = max(found, key=lambda m: len(m.group(1))).group(1).upper()
        version = " with version suffix" if np.mean([bool(_VERSION.search(name)) for name in some]) > 0.5 else ""
        return f"Ensembl ids{version} ({_SPECIES.get(prefix, 'another species')})"
    title = np.mean([name[:1].isupper() and name[1:].islower() for name in some if name[:1].isalpha()] or [0])
    return f"gene symbols ({'mouse' if title > 0.5 else 'human'})"


def align_genes(wanted: Sequence[str], present: Sequence[str], *, what: str = "the object") -> Alignment:
    """Find the genes of a model among those of a query, by name and never by position.

    Parameters
    ----------
    wanted
        Gene names of the fitted model, unique.
    present
        Gene names of the query, unique.
    what
        How messages call the query.

    Returns
    -------
    Where each wanted gene lies in the query, and how many were found, are missing and are left over.

    Raises
    ------
    InputError
        Fewer than 10 % of the wanted genes, or fewer than 50 (all, where the model has fewer) are there;
        the message says which kinds of identifier meet and whether case or a version suffix is the reason.

    Examples
    --------
    >>> from scdance import pp
    >>> pp.align_genes(["CD3E", "CD19", "LYZ"], ["LYZ", "CD19", "CD3E", "ACTB"]).columns.tolist()
    [2, 1, 0]
    """
    position = {str(name): i for i, name in enumerate(present)}
    columns = np.array([position.get(str(name), -1) for name in wanted], dtype=np.int64)
    n_shared = int((columns >= 0).sum())
    if n_shared < max(0.1 * len(wanted), min(50, len(wanted))):
        raise InputError(_no_overlap([str(w) for w in wanted], [str(p) for p in present], n_shared, what))
    return Alignment(columns, n_shared, len(wanted) - n_shared, len(present) - n_shared)


def shared_genes(ref: Sequence[str], present: Sequence[str]) -> np.ndarray:
    """Find the genes of a reference that a query has too, by name.

    Parameters
    ----------
    ref, present
        Gene names of the reference and of the query, each unique.

    Returns
    -------
    Columns of the reference, ascending, (n_shared,) int.

    Raises
    ------
    InputError
        Fewer than 10 genes, or than all of a reference with fewer, are shared; the message says why. Fewer than
        100, and than half of the reference, are a warning.

    Examples
    --------
    >>> from scdance import pp
    >>> pp.shared_genes(["CD3E", "CD19"], ["LYZ", "CD19", "CD3E"]).tolist()
    [0, 1]
    """
    there = {str(name) for name in present}
    columns = np.flatnonzero([str(name) in there for name in ref])
    if len(columns) < min(FEWEST_SHARED, len(ref)):
        names = [str(name) for name in ref]
        raise InputError(_no_overlap(names, [str(p) for p in present], len(columns), "the object", "reference"))
    if len(columns) < min(FEW_SHARED, len(ref) / 2):
        warn(f"Only {len(columns)} of the {len(ref)} genes of the reference are in the object; expect little of them.")
    return columns


def _no_overlap(wanted: list[str], present: list[str], n_shared: int, what: str, who: str = "model") -> str:
    msg = (
        f"The {who} knows {len(wanted)} genes by {kind_of_names(wanted)} ({listed(wanted, 3)}); "
        f"{what} has {len(present)} by {kind_of_names(present)} ({listed(present, 3)}), and {n_shared} are the same. "
    )
    renamed = {
        "upper()": [name.upper() for name in present],
        "capitalize()": [name.capitalize() for name in present],
        "lower()": [name.lower() for name in present],
        "split('.').str[0]": [_VERSION.sub("", name) for name in present],
    }
    known = set(wanted)
    best = max(renamed, key=lambda how: len(known.intersection(renamed[how])))
    if len(known.intersection(renamed[best])) > max(n_shared, 0.8 * min(len(wanted), len(present))):
        why = "the version suffix" if "split" in best else "upper and lower case"
        return msg + f"They agree but for {why}: rename them, `adata.var_names = adata.var_names.str.{best}`."
    bare = len(set(present) & {_VERSION.sub("", name) for name in wanted})
    if bare > max(n_shared, 0.8 * min(len(wanted), len(present))):
        return msg + (
            f"They agree but for the version suffix of the {who}'s: fit it on names without, "
            "`ref.var_names = ref.var_names.str.split('.').str[0]`."
        )
    if n_shared > 0.5 * len(present):
        return msg + "That is too few to go by. Pass all the genes that were measured, not a selection of them."
    if who == "reference":
        return msg + (
            "Name the genes of both alike first: `adata.var_names = adata.var[column]`, or the same for `ref`, with "
            "the column of `var` that holds the other's kind of names."
        )
    return msg + "Set `adata.var_names` to the kind of identifier the model was fitted with."
