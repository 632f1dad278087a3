"""What simulators share: the cells that they mix, the counts that they draw, and the truth that they keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, MissingKeyError, column, listed, one_of
from scdance.pp import canonical

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

ENTRIES_PER_BLOCK = 1_000_000  # dense at once: 8 MB an array
Noise = Callable[[tuple[int, ...]], np.ndarray] | None  # random factors of expected counts, for a given shape


@dataclass
class Mixable:
    """Counts (n_cells, n_vars) of the cells that can be mixed, the codes of their types and their names."""

    counts: sp.csr_matrix
    codes: np.ndarray
    types: list[str]

    @property
    def is_type(self) -> sp.csr_array:
        """1 where a cell (row) is of a type (column)."""
        import scipy.sparse as sp

        n = len(self.codes)
        return sp.csr_array((np.ones(n), self.codes, np.arange(n + 1)), shape=(n, len(self.types)))


@dataclass
class Source:
    """What weights are put on: expression (n, n_vars), its total and type, for cells or mean profiles."""

    counts: sp.csr_array
    total: np.ndarray
    is_type: sp.csr_array


def mixable(ref: AnnData, labels_key: str, layer: str | None) -> Mixable:
    """The cells of `ref` that have a type and counts."""
    import pandas as pd

    labels = column(ref.obs, labels_key, where="ref.obs", what="the column of cell types", argument="labels_key")
    counts = _counts(ref, layer)
    found = pd.Categorical(labels)
    rows = np.flatnonzero((found.codes >= 0) & (found != "") & (np.diff(counts.indptr) > 0))
    found = found[rows].remove_unused_categories()
    if len(found.categories) < 2:
        msg = (
            f"Column {labels_key!r} of `ref.obs` has {len(found.categories)} types in {len(rows)} cells with "
            f"counts ({listed(found.categories)}); a mixture needs at least 2. Pass another `labels_key=`."
        )
        raise InputError(msg)
    return Mixable(counts[rows], found.codes.astype(np.int32), [str(each) for each in found.categories])


def _counts(ref: AnnData, layer: str | None) -> sp.csr_matrix:
    if layer is not None and layer not in ref.layers:
        msg = f"No layer {layer!r} in `ref.layers`; it has {listed(ref.layers)}. Pass the one with raw counts."
        raise MissingKeyError(msg)
    name = "counts" if layer is None and "counts" in ref.layers else layer
    where = "ref.X" if name is None else f"ref.layers[{name!r}]"
    counts = canonical(ref.X if name is None else ref.layers[name])
    odd = counts.data[(counts.data < 0) | (counts.data != np.floor(counts.data))]
    if len(odd):
        msg = f"`{where}` must hold raw counts, but has {odd[0]:.3g}. Pass the layer that holds them as `layer=`."
        raise InputError(msg)
    return counts


def sources(
    cells: Mixable, members: np.ndarray, expression: str, rng: np.random.Generator
) -> tuple[Source, sp.csr_array]:
    """What is mixed, and how much of each is in each spot, (n_spots, n_sources)."""
    import scipy.sparse as sp

    size = np.bincount(cells.codes, minlength=len(cells.types))
    if expression == "profiles":
        profiles = sp.csr_array(sp.diags_array(1 / size) @ cells.is_type.T @ sp.csr_array(cells.counts))
        return Source(profiles, profiles.sum(axis=1), sp.eye_array(len(size), format="csr")), sp.csr_array(members)
    # one random cell of its type for each member
    spot, kind = (np.repeat(each.ravel(), members.ravel()) for each in np.indices(members.shape))
    by_type = np.argsort(cells.codes, kind="stable")
    drawn = by_type[(np.cumsum(size) - size)[kind] + rng.integers(size[kind])]
    mixture = sp.csr_array((np.ones(len(drawn)), (spot, drawn)), shape=(len(members), len(cells.codes)))
    counts = sp.csr_array(cells.counts, dtype=np.float64)
    return Source(counts, counts.sum(axis=1), cells.is_type), mixture


def present_types(cells: Mixable, drop_types: Sequence[str]) -> np.ndarray:
    """Codes of the types that are left when some are dropped."""
    absent = [cells.types.index(one_of(each, cells.types, "drop_types")) for each in drop_types]
    present = np.setdiff1d(np.arange(len(cells.types)), absent)
    if len(present) < 2:
        msg = f"drop_types leaves {len(present)} of {len(cells.types)} types; a mixture needs at least 2."
        raise InputError(msg)
    return present


def drawn(
    weights: sp.csr_array, genes: sp.csr_array, rng: np.random.Generator, *, ambient: float = 0.0, noise: Noise = None
) -> sp.csr_array:
    """Poisson counts around `weights @ genes` times `noise`, a share of the expected ones from the mean profile."""
    import scipy.sparse as sp

    profile = weights.sum(axis=0) @ genes
    profile = profile / profile.sum()
    out = []
    step = max(1, ENTRIES_PER_BLOCK // genes.shape[1])
    for start in range(0, weights.shape[0], step):
        mean = (weights[start : start + step] @ genes).toarray()
        mean = (1 - ambient) * mean + ambient * mean.sum(axis=1, keepdims=True) * profile
        if noise is not None:
            mean *= noise(mean.shape)
        out.append(sp.csr_array(rng.poisson(mean).astype(np.int32)))
    return sp.vstack(out, format="csr")


def gamma_noise(theta: float | None, rng: np.random.Generator) -> Noise:
    """Factors with mean 1 and variance 1 / theta, around which Poisson counts are negative binomial; None: none."""
    return None if theta is None else lambda shape: rng.standard_gamma(theta, shape) / theta


def lognormal_noise(sd: float, rng: np.random.Generator) -> Noise:
    """Factors with mean 1 and standard deviation `sd` in natural logarithms."""
    return lambda shape: rng.lognormal(-(sd**2) / 2, sd, shape)


def thinned(counts: sp.csr_array, keep: np.ndarray, rng: np.random.Generator) -> sp.csr_array:
    """Counts of which each molecule is kept with the probability of its row."""
    kept = counts.copy()
    kept.data = rng.binomial(counts.data, np.repeat(keep, np.diff(counts.indptr))).astype(np.int32)
    return kept


def as_counts(counts: sp.csr_array) -> sp.csr_matrix:
    """Counts as they stand in ``X``: sorted, without stored zeros."""
    import scipy.sparse as sp

    x = sp.csr_matrix(counts)
    x.sort_indices()
    x.eliminate_zeros()
    return x


def as_spots(
    counts: sp.csr_array,
    genes: pd.Index | np.ndarray,
    obs: pd.DataFrame,
    truth: np.ndarray,
    truth_rna: np.ndarray,
    types: list[str],
) -> AnnData:
    """Counts with the shares of the types among the cells and, from amounts, among the RNA."""
    import anndata
    import pandas as pd

    columns = [name.replace("/", "|") for name in types]  # HDF5 takes no "/"
    rna = truth_rna / truth_rna.sum(axis=1, keepdims=True)
    obsm = {
        name: pd.DataFrame(values, index=obs.index, columns=columns)
        for name, values in {"true_prop": truth, "true_prop_rna": rna}.items()
    }
    return anndata.AnnData(as_counts(counts), obs=obs, var=pd.DataFrame(index=pd.Index(genes, copy=True)), obsm=obsm)


def record(simulator: str, **given: Any) -> dict[str, Any]:
    """The parameters as h5ad takes them: no None, no generator."""
    seed = given.pop("random_state")
    if not isinstance(seed, np.random.Generator):
        given["random_state"] = seed
    return {"simulator": simulator, **{name: value for name, value in given.items() if value is not None}}


def above_zero(**given: float) -> None:
    for name, value in given.items():
        if not 0 < value < np.inf:
            msg = f"{name} is {value}, but must be a finite number above 0."
            raise InputError(msg)


def at_least_zero(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value < np.inf:
            msg = f"{name} is {value}, but must be a finite number of at least 0."
            raise InputError(msg)


def shares(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value < 1:
            msg = f"{name} is {value}, but must be a share, from 0 to below 1."
            raise InputError(msg)
