"""Links between features that are known beforehand: gene sets, interactions, a gene and its protein."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, issparse

from scdance._checks import InputError, WrongTypeError, listed, nearest, warn

from ._ops import canonical

FEW = 0.1  # share of matched features below which the user is warned
TOLD = 5  # unmatched features that the report names
_VERSION = re.compile(r"(ENS[A-Z]*\d{11})\.\d+")
_ENDS = (("_a", "_b"), (".a", ".b"), ("1", "2"))  # of two columns that hold the two sides of a table of edges
_WEIGHTS = {"weight": 1.0, "combined_score": 1e-3}  # columns, and what makes a weight of their values


def prior_graph(
    prior: Any, names: Iterable[str], symbols: Mapping[str, str | Iterable[str]] | None = None
) -> tuple[csr_matrix, dict[str, Any]]:
    """Link features by what is known of them: gene sets, interactions, a gene and its protein.

    A feature goes by its symbol, or by its name if it has none. It is looked for in the prior as it is written and, if
    it is not there, without regard to case. The version of an Ensembl identifier (``ENSG00000167286.9``) counts on
    neither side. Features that go by the same identifier, such as a gene and the protein that it codes, are linked
    with weight 1, whether or not the prior knows it.

    Parameters
    ----------
    prior
        One of: gene sets, a dict from a set's name to its genes, or the path of a GMT file; all pairs of a set are
        linked with weight 1. A DataFrame of edges with the columns source and target and, if they have one, weight.
        The path of such a table, comma- or tab-separated, where the sides may also be two columns that end in a and b
        or in 1 and 2, as in the tables of STRING (of several such pairs the one that names most of the features), and
        the weight a combined_score in thousandths. A pair of a sparse matrix, (m, m), and the names of its rows. A
        networkx graph. Paths may end in .gz.
    names
        Names of the features, (n,). A name may occur twice, as a gene and as a protein.
    symbols
        From the name of a feature to its symbol in the prior, or to several of them (the antibody CD3 binds to CD3D,
        CD3E and CD3G); names that are absent, or whose symbol is empty, stand for themselves. A dict, or a Series whose
        index has the names, such as a column of ``var``; a name may occur in it more than once. For the links of
        STRING, between proteins, that is the column ``#string_protein_id`` of its table ``protein.info`` (or
        ``protein.aliases``) by ``preferred_name`` (or ``alias``).

    Returns
    -------
    The weights, (n, n), symmetric CSR float32 > 0, nothing on the diagonal; of an edge that is given more than once,
    or in both directions, the largest. And what was found, a dict: ``n_matched`` (features that the prior knows),
    ``share`` (of all features, 0 to 1), ``n_edges`` (each counted once) and ``unmatched`` (up to five features that
    the prior does not know).

    Raises
    ------
    InputError
        If the prior is empty or knows none of the features, a file is missing or cannot be read, a table has no
        columns of edges, names and matrix do not fit, or a weight is negative or not a number.
    WrongTypeError
        If `prior` or `symbols` is something else.

    Examples
    --------
    >>> from scdance import graph
    >>> names = ["CD4_TotalSeqB", "CD4", "LCK", "ALB"]
    >>> a, found = graph.prior_graph({"T cells": ["CD4", "LCK", "ZAP70"]}, names, {"CD4_TotalSeqB": "CD4"})
    >>> a.toarray().astype(int).tolist()
    [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    >>> found
    {'n_matched': 3, 'share': 0.75, 'n_edges': 3, 'unmatched': ['ALB']}
    """
    names = [str(name) for name in names]
    owner, own = _identifiers(names, _mapping(symbols))
    ids, links = _read(prior, own)
    node = _match(own, ids)
    known = node < len(ids)  # a feature that the prior does not know has a node of its own, which no edge reaches
    matched = np.zeros(len(names), dtype=bool)
    matched[owner[known]] = True
    unmatched = [name for name, is_known in zip(names, matched, strict=True) if not is_known]
    share = float(matched.mean()) if names else 0.0
    _refuse_strangers(share, unmatched, ids)

    edges = links(node[known])  # over the identifiers in use
    sides = [owner[known][side] for side in (edges.row, edges.col)]
    same = _pairs(csr_matrix((np.ones(len(node)), (node, owner)), shape=(node.max() + 1, len(names))))
    rows = np.concatenate([*sides, same.row])
    columns = np.concatenate([*sides[::-1], same.col])
    a = _largest(rows, columns, np.concatenate([edges.data, edges.data, same.data]), len(names))
    report = {"n_matched": int(matched.sum()), "share": share, "n_edges": a.nnz // 2, "unmatched": unmatched[:TOLD]}
    return a, report


def _refuse_strangers(share: float, unmatched: list[str], ids: np.ndarray) -> None:
    if not len(ids):
        msg = (
            "The prior is empty: it names no feature. A line of a GMT file has a name, a description and the genes, "
            "between tabs; a table has a line for each edge."
        )
        raise InputError(msg)
    there = f"the features are {listed(unmatched, TOLD)}, the identifiers of the prior {listed(ids, TOLD)}"
    if share == 0:
        msg = (
            f"The prior knows none of the {len(unmatched)} features: {there}. "
            "Pass `symbols`, a dict from the names of the features to the identifiers of the prior."
        )
        raise InputError(msg)
    if share < FEW:
        warn(f"The prior knows only {share:.1%} of the features; of those that it does not know {there}.")


def _mapping(symbols: Any) -> Mapping[str, Any]:
    """Symbols as a dict; of a Series, from each name in its index to all values that it has there."""
    if symbols is None or isinstance(symbols, Mapping):
        return symbols or {}
    if not (hasattr(symbols, "items") and hasattr(symbols, "index")) or hasattr(symbols, "columns"):
        msg = (
            f"`symbols` is a {type(symbols).__name__}, but must be a dict from the names of the features to their "
            "identifiers in the prior, such as {'CD3_TotalSeqB': 'CD3E'}, or a column of `var`."
        )
        raise WrongTypeError(msg)
    found: dict[str, list[Any]] = {}
    for name, each in symbols.items():
        found.setdefault(name, []).extend([each] if isinstance(each, str) or not isinstance(each, Iterable) else each)
    return found


def _identifiers(names: list[str], symbols: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What the features go by, (r,) strings, and to which feature each of these belongs, (r,), r ≥ n."""
    owner: list[int] = []
    own: list[str] = []
    for place, name in enumerate(names):
        found = symbols.get(name)
        several = [found] if isinstance(found, str) or not isinstance(found, Iterable) else found
        some = dict.fromkeys(str(each) for each in several if isinstance(each, str | int | np.integer) and each != "")
        owner += [place] * max(len(some), 1)
        own += some or [name]
    return np.array(owner, dtype=np.int64), _clean(own)


def _clean(ids: Iterable[Any]) -> np.ndarray:
    """Identifiers as strings, without blanks around them and without Ensembl's versions."""
    texts = [str(each).strip() for each in ids]
    return np.array([_VERSION.sub(r"\1", each) if each.startswith("ENS") else each for each in texts], dtype=object)


def _match(own: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Place of each of `own` in `ids`; what is not there gets a place behind them, the same one if it is the same."""
    exact = {each: place for place, each in enumerate(ids)}
    folded = {each.casefold(): place for each, place in reversed(exact.items())}  # the first of several
    places = [exact.get(each, folded.get(each.casefold(), -1)) for each in own]
    strangers = {each: len(ids) + k for k, each in enumerate(dict.fromkeys(own))}
    return np.array([strangers[each] if at < 0 else at for each, at in zip(own, places, strict=True)], dtype=np.int64)


class _Sets:
    """Gene sets as a matrix of sets × identifiers, whose product with itself holds the pairs."""

    def __init__(self, members: csr_matrix) -> None:
        self.members = members.tocsc()

    def __call__(self, nodes: np.ndarray) -> coo_matrix:
        return _pairs(self.members[:, nodes])


class _Edges:
    """Weights between identifiers, CSR."""

    def __init__(self, weights: csr_matrix) -> None:
        self.weights = weights

    def __call__(self, nodes: np.ndarray) -> coo_matrix:
        return self.weights[nodes][:, nodes].tocoo()


def _pairs(members: Any) -> coo_matrix:
    """1 for each two columns that share a row."""
    pairs = (members.T @ members).tocoo()
    pairs.data = np.ones(pairs.nnz, dtype=np.float32)
    return pairs


def _largest(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, n: int) -> csr_matrix:
    """(n, n), the largest of the values given for an entry; nothing on the diagonal."""
    off = rows != columns
    entry, values = rows[off].astype(np.int64) * n + columns[off], values[off]
    order = np.lexsort((values, entry))
    entry, values = entry[order], values[order]
    last = np.flatnonzero(np.append(entry[1:] != entry[:-1], True)[: len(entry)])
    rows, columns = np.divmod(entry[last], n)
    return canonical(coo_matrix((values[last].astype(np.float32), (rows, columns)), shape=(n, n)))


# The forms of a prior; each gives its identifiers and the links between some of them.


def _read(prior: Any, own: np.ndarray) -> tuple[np.ndarray, Any]:
    if isinstance(prior, str | Path):
        return _file(Path(prior), own)
    if isinstance(prior, Mapping):
        return _sets(prior)
    if isinstance(prior, tuple) and len(prior) == 2 and issparse(prior[0]):
        return _matrix(*prior)
    if hasattr(prior, "columns"):
        return _table(prior, ("source", "target"))
    if hasattr(prior, "edges") and hasattr(prior, "nodes"):
        sides = [(a, b, 1.0 if weight is None else weight) for a, b, weight in prior.edges(data="weight")]
        source, target, weights = zip(*sides, strict=True) if sides else ((), (), ())
        return _edges(source, target, weights)
    msg = (
        f"`prior` is a {type(prior).__name__}, but must be gene sets (a dict or the path of a GMT file), edges (a "
        "DataFrame with the columns source and target, the path of a table, a networkx graph) or a pair "
        "(sparse matrix, names of its rows)."
    )
    raise WrongTypeError(msg)


def _file(path: Path, own: np.ndarray) -> tuple[np.ndarray, Any]:
    if not path.is_file():
        msg = f"There is no file {str(path)!r}. Pass the path of a GMT file or of a table of edges as `prior`."
        raise InputError(msg)
    ending = "".join(path.suffixes[-2:]).lower().removesuffix(".gz")
    try:
        found: Any = _gmt(path) if ending.endswith(".gmt") else _text_table(path, ending)
    except (ValueError, OSError, EOFError) as error:  # no text, not packed as its name says, without a line
        msg = (
            f"The file {path.name!r} cannot be read as gene sets or a table ({type(error).__name__}: {error}). A prior "
            "ends in .gmt for gene sets, in .csv, .tsv or .txt for a table of edges, or in one of these and .gz."
        )
        raise InputError(msg) from error
    return _sets(found) if isinstance(found, dict) else _table(found, _sides(found, own))


def _text_table(path: Path, ending: str) -> Any:
    """A table whose columns are parted by commas, by blanks in a .txt (as STRING has it), else by tabs."""
    import pandas as pd

    sep = "," if ending.endswith(".csv") else r"\s+" if ending.endswith(".txt") else "\t"
    return pd.read_csv(path, sep=sep, dtype=str)


def _gmt(path: Path) -> dict[str, list[str]]:
    """Sets of a GMT file: a line has the name, a description and the genes, between tabs."""
    import gzip

    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        parts = [line.rstrip("\r\n").split("\t") for line in lines if line.strip()]
    return {name: [gene for gene in genes if gene] for name, *genes in ([p[0], *p[2:]] for p in parts)}


def _sets(sets: Mapping[Any, Any]) -> tuple[np.ndarray, Any]:
    for name, genes in sets.items():
        if isinstance(genes, str) or not isinstance(genes, Iterable):
            msg = f"The gene set {name!r} is {genes!r}, but must be a list of genes."
            raise InputError(msg)
    members = [_clean(genes) for genes in sets.values()]
    ids, codes = _codes(np.concatenate(members) if members else np.empty(0, dtype=object))
    rows = np.repeat(np.arange(len(members)), [len(each) for each in members])
    return ids, _Sets(
        csr_matrix((np.ones(len(codes), dtype=np.float32), (rows, codes)), shape=(len(members), len(ids)))
    )


def _matrix(weights: Any, names: Iterable[str]) -> tuple[np.ndarray, Any]:
    ids = _clean(names)
    if weights.shape != (len(ids), len(ids)):
        msg = f"The matrix of the prior is {weights.shape}, but with {len(ids)} names it must be square and as large."
        raise InputError(msg)
    edges = coo_matrix(weights)
    return _edges(ids[edges.row], ids[edges.col], edges.data)


def _sides(table: Any, own: np.ndarray) -> tuple[str, str]:
    """The two columns of a table that hold the sides of its edges."""
    names = list(table.columns)
    if {"source", "target"} <= set(names):
        return "source", "target"
    found = [(n, n.removesuffix(a) + b) for a, b in _ENDS for n in names if n.endswith(a)]
    wanted = {each.casefold() for each in own}
    hits = {(a, b): len(wanted & {str(each).casefold() for each in table[a].unique()}) for a, b in found if b in names}
    return max(hits, key=hits.__getitem__, default=("source", "target"))


def _table(table: Any, sides: tuple[str, str]) -> tuple[np.ndarray, Any]:
    for side in sides:
        if side not in table.columns:
            msg = (
                f"A table of edges must have the columns source and target, but has {listed(table.columns)}."
                f"{nearest(side, table.columns)}"
            )
            raise InputError(msg)
    table = table.dropna(subset=list(sides))
    weight = next((name for name in _WEIGHTS if name in table.columns), None)
    try:
        values = np.ones(len(table)) if weight is None else table[weight].to_numpy(dtype=float) * _WEIGHTS[weight]
    except (TypeError, ValueError) as error:
        msg = f"The weights of the edges, column {weight!r}, must be numbers: {error}."
        raise InputError(msg) from error
    return _edges(table[sides[0]], table[sides[1]], values)


def _edges(source: Iterable[Any], target: Iterable[Any], weights: Any) -> tuple[np.ndarray, Any]:
    values = np.asarray(weights, dtype=np.float64)
    if not (values >= 0).all() or np.isinf(values).any():
        wrong = values[~(values >= 0) | np.isinf(values)][0]
        msg = f"The weights of a prior must be finite and not negative, but one is {wrong:.3g}."
        raise InputError(msg)
    ids, codes = _codes(np.concatenate([_clean(source), _clean(target)]))
    rows, columns = np.split(codes, 2)
    return ids, _Edges(_largest(rows, columns, values, len(ids)))


def _codes(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different identifiers in the order in which they come, and the place of each."""
    place: dict[str, int] = {}
    codes = np.array([place.setdefault(each, len(place)) for each in ids], dtype=np.int64)
    return np.array(list(place), dtype=object), codes
