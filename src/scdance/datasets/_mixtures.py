"""Seeded mixtures of reference cells: spots whose composition is known because we mixed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scdance._checks import InputError, MissingKeyError, column, listed, one_of, whole_number
from scdance.pp import canonical, generator

from ._toy import toy_clusters

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData
    from numpy.typing import ArrayLike

PITCH = 100.0  # pixels between the centres of neighbouring spots of a lattice, as 100 µm on Visium
NEIGHBOUR_REACH = 1.3  # in pitches: the ring around a spot, 6 on a hexagonal and 4 on a square lattice
N_WAVES = 200  # cosines whose sum is a random field
BLOB_HEIGHT = 3.0  # logit in the middle of a blob
BLOB_RADIUS = 1.5  # in lengthscales: as many blobs as would cover the tissue once
TRIES_PER_SPOT = 1_000  # draws of a pseudo-spot until it has enough types
ENTRIES_PER_BLOCK = 1_000_000  # dense at once: 8 MB an array
PATTERNS = ("blobs", "layers", "gradient", "gp", "random")
LATTICES = ("hex", "square")


def simulate_visium(
    ref: AnnData,
    labels_key: str,
    *,
    lattice: Literal["hex", "square"] | ArrayLike = "hex",
    n_rows: int = 30,
    n_cols: int = 30,
    pattern: Literal["blobs", "layers", "gradient", "gp", "random"] = "blobs",
    lengthscale: float = 5.0,
    temperature: float = 0.5,
    n_cells_per_spot: float = 8.0,
    expression: Literal["cells", "profiles"] = "cells",
    depth: float = 5000.0,
    capture_sd: float = 0.3,
    gene_effect_sd: float = 0.3,
    ambient: float = 0.02,
    bleed: float = 0.1,
    theta: float | None = None,
    drop_types: Sequence[str] = (),
    layer: str | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate the spots of a tissue slice by mixing the cells of a reference.

    A random pattern says how likely each type is at each spot; a Poisson number of cells is drawn from it.
    Their counts are summed, every gene is changed by the factor by which the platforms differ, a part bleeds
    into the neighbouring spots and another comes from the ambient profile, and what is left is drawn as
    counts. Spots are made in blocks, so that memory stays with the counts above zero. Mix other cells than
    those a method gets as its reference: :func:`split_reference`.

    Parameters
    ----------
    ref
        Cells with raw counts in ``layers["counts"]`` or ``X``. Cells without counts or type are left out.
    labels_key
        Column of ``ref.obs`` with their types.
    lattice
        ``"hex"`` as Visium, ``"square"``, or the coordinates of the spots, (n_spots, 2).
    n_rows, n_cols
        Rows of the lattice and spots in each; not used with coordinates.
    pattern
        How types lie in the tissue. ``"blobs"``: around random places; ``"layers"``: one behind the
        other in random order; ``"gradient"``: each rises in a direction of its own; ``"gp"``: Gaussian random
        fields; ``"random"``: no pattern.
    lengthscale
        Radius of the blobs, width of the borders between layers, or range of the random fields, in distances
        between neighbouring spots, above 0.
    temperature
        How mixed the spots are, above 0: near 0 one type rules each spot, large values approach equal shares.
    n_cells_per_spot
        Mean number of cells, above 0; a spot has at least 1. With thousands of them the composition follows
        the pattern exactly.
    expression
        ``"cells"`` sums random cells of the types, ``"profiles"`` the mean profiles of the types.
    depth
        Mean of the expected total counts of a spot, above 0: about 300 to 1,000 for Slide-seq, 5,000 for Visium.
    capture_sd
        Spread of the spots' capture efficiency, in natural logarithms.
    gene_effect_sd
        Spread of the factors by which the platform changes the genes, in natural logarithms.
    ambient
        Share of the expected counts of a spot, 0 to below 1, that comes from the mean profile of all spots.
    bleed
        Share of the RNA of a spot, 0 to below 1, that ends up in the ring of spots around it.
    theta
        Inverse dispersion of the counts, above 0: variance is `mean + mean² / theta`. None: Poisson counts.
    drop_types
        Types that occur in no spot. They keep their columns of zeros in the truth.
    layer
        Layer with the raw counts. None: ``layers["counts"]`` if there, else ``X``.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``; coordinates in pixels in ``obsm["spatial"]``, 100 between
    neighbours of a lattice; ``obsm["true_prop"]``, the types' shares of the cells, and
    ``obsm["true_prop_rna"]``, their shares of the cells' RNA, rows sum to 1; ``obs["n_cells"]`` and
    ``obs["expected_counts"]``; on a lattice ``obs["array_row"]`` and ``obs["array_col"]``, numbered as Visium
    does; the parameters in ``uns["simulation"]``. "/" in the name of a type is written "|".

    Raises
    ------
    MissingKeyError
        If the column or layer is not in `ref`; the message says what is.
    InputError
        If there are fewer than two types, the counts are no counts, or a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> cells = sd.datasets.toy_clusters(n_obs=200, n_vars=60, k=3, n_de=10)
    >>> mixing, ref = sd.datasets.split_reference(cells)
    >>> spots = sd.datasets.simulate_visium(mixing, "cell_type", n_rows=8, n_cols=6, pattern="layers")
    >>> spots.shape, list(spots.obsm["true_prop"])
    ((48, 60), ['type1', 'type2', 'type3'])
    """
    import scipy.sparse as sp

    one_of(pattern, PATTERNS, "pattern")
    one_of(expression, ("cells", "profiles"), "expression")
    _above_zero(lengthscale=lengthscale, temperature=temperature, n_cells_per_spot=n_cells_per_spot, depth=depth)
    _above_zero(theta=1.0 if theta is None else theta)
    _at_least_zero(capture_sd=capture_sd, gene_effect_sd=gene_effect_sd)
    _shares(ambient=ambient, bleed=bleed)
    spots = _layout(lattice, n_rows, n_cols)
    cells = _mixable(ref, labels_key, layer)
    absent = [cells.types.index(one_of(each, cells.types, "drop_types")) for each in drop_types]
    present = np.setdiff1d(np.arange(len(cells.types)), absent)
    if len(present) < 2:
        msg = f"drop_types leaves {len(present)} of {len(cells.types)} types; a mixture needs at least 2."
        raise InputError(msg)
    rng = generator(random_state)

    proportions = np.zeros((len(spots.xy), len(cells.types)))
    logits = _field(pattern, spots.xy / spots.pitch, len(present), lengthscale, rng)
    proportions[:, present] = _softmax(logits / temperature)
    n_cells = np.maximum(rng.poisson(n_cells_per_spot, len(spots.xy)), 1)
    members = rng.multinomial(n_cells, proportions)  # cells of each type in each spot

    source, mixture = _sources(cells, members, expression, rng)
    truth_rna = (mixture @ sp.diags_array(source.total) @ source.is_type).toarray()
    genes = source.counts @ sp.diags_array(rng.lognormal(0, gene_effect_sd, source.counts.shape[1]))
    capture = rng.lognormal(-(capture_sd**2) / 2, capture_sd, len(spots.xy))
    weights = sp.diags_array(capture) @ _bleeding(spots, bleed) @ mixture
    weights = sp.csr_array(weights * (depth / (weights @ genes.sum(axis=1)).mean()))

    truth = members / n_cells[:, None]
    names = [f"spot_{i}" for i in range(len(spots.xy))]
    obs = spots.array.assign(n_cells=n_cells.astype(np.int32), expected_counts=weights @ genes.sum(axis=1))
    adata = _spots(_drawn(weights, genes, ambient, theta, rng), ref, obs.set_axis(names), truth, truth_rna, cells.types)
    adata.obsm["spatial"] = spots.xy
    adata.uns["simulation"] = _record(
        "simulate_visium",
        labels_key=labels_key,
        lattice=lattice if isinstance(lattice, str) else "given",
        pitch=spots.pitch,
        pattern=pattern,
        lengthscale=lengthscale,
        temperature=temperature,
        n_cells_per_spot=n_cells_per_spot,
        expression=expression,
        depth=depth,
        capture_sd=capture_sd,
        gene_effect_sd=gene_effect_sd,
        ambient=ambient,
        bleed=bleed,
        theta=theta,
        drop_types=list(drop_types),
        layer=layer,
        random_state=random_state,
    )
    return adata


def simulate_pseudospots(
    ref: AnnData,
    labels_key: str,
    n: int = 1000,
    *,
    n_cells: tuple[int, int] = (2, 8),
    min_types: int = 1,
    max_umi: float = 25_000,
    target_umi: float = 20_000,
    replace: bool = True,
    layer: str | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Sum the counts of a few random cells of a reference, spot by spot.

    Such spots train or test a deconvolution where their place does not matter. A spot is deeper than its
    cells are, so that one with too many molecules is thinned.

    Parameters
    ----------
    ref
        Cells with raw counts in ``layers["counts"]`` or ``X``. Cells without counts or type are left out.
    labels_key
        Column of ``ref.obs`` with their types.
    n
        Number of spots.
    n_cells
        Fewest and most cells of a spot; each number is as likely.
    min_types
        Fewest types of a spot; draws with fewer are repeated.
    max_umi
        Most total counts of a spot. One with more keeps each molecule with probability `target_umi` / total.
    target_umi
        Mean total counts of thinned spots, at most `max_umi`.
    replace
        Whether a cell may occur several times in a spot.
    layer
        Layer with the raw counts. None: ``layers["counts"]`` if there, else ``X``.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``; ``obsm["true_prop"]``, the types' shares of the cells, and
    ``obsm["true_prop_rna"]``, their shares of the RNA before thinning, rows sum to 1; ``obs["n_cells"]``; the
    parameters in ``uns["simulation"]``. There are no coordinates. "/" in the name of a type is written "|".

    Raises
    ------
    MissingKeyError
        If the column or layer is not in `ref`; the message says what is.
    InputError
        If there are fewer than two types, the counts are no counts, or a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> cells = sd.datasets.toy_clusters(n_obs=200, n_vars=60, k=3, n_de=10)
    >>> sd.datasets.simulate_pseudospots(cells, "cell_type", 50).shape
    (50, 60)
    """
    import pandas as pd
    import scipy.sparse as sp

    n = whole_number(n, "n", least=1)
    fewest, most = (whole_number(each, "n_cells", least=1) for each in n_cells)
    _above_zero(max_umi=max_umi, target_umi=target_umi)
    cells = _mixable(ref, labels_key, layer)
    n_types = whole_number(min_types, "min_types", least=1)
    for wrong, what in (
        (fewest > most, f"n_cells is {n_cells}, but must be the fewest and then the most cells of a spot."),
        (target_umi > max_umi, f"target_umi is {target_umi}, but must be at most max_umi, {max_umi}."),
        (n_types > fewest, f"min_types is {n_types}, but a spot may have {fewest} cells; raise n_cells."),
        (n_types > len(cells.types), f"min_types is {n_types}, but there are {len(cells.types)} types."),
        (
            not replace and most > len(cells.codes),
            f"n_cells goes up to {most}, but there are {len(cells.codes)} cells; pass replace=True.",
        ),
    ):
        if wrong:
            raise InputError(what)
    rng = generator(random_state)

    sizes = rng.integers(fewest, most + 1, size=n)
    members = np.concatenate([_members(cells.codes, size, n_types, replace, rng) for size in sizes])
    mixture = sp.csr_array(
        (np.ones(len(members), np.int32), members, np.r_[0, np.cumsum(sizes)]), (n, len(cells.codes))
    )
    x = sp.csr_array(mixture @ cells.counts.astype(np.int32))
    total = x.sum(axis=1)
    keep = np.where(total > max_umi, target_umi / np.maximum(total, 1), 1.0)
    x.data = rng.binomial(x.data, np.repeat(keep, np.diff(x.indptr))).astype(np.int32)

    depth = np.asarray(cells.counts.sum(axis=1)).ravel()
    rna = (mixture @ sp.diags_array(depth) @ cells.is_type).toarray()
    obs = pd.DataFrame({"n_cells": sizes.astype(np.int32)}, index=[f"spot_{i}" for i in range(n)])
    adata = _spots(x, ref, obs, (mixture @ cells.is_type).toarray() / sizes[:, None], rna, cells.types)
    adata.uns["simulation"] = _record(
        "simulate_pseudospots",
        labels_key=labels_key,
        n_cells=list(n_cells),
        min_types=min_types,
        max_umi=max_umi,
        target_umi=target_umi,
        replace=replace,
        layer=layer,
        random_state=random_state,
    )
    return adata


def split_reference(
    ref: AnnData,
    by: str | None = None,
    fraction: float = 0.5,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[AnnData, AnnData]:
    """Part a reference into cells to mix spots from and cells to give to a method.

    A method that sees the very cells that were mixed is tested on what it knows. Whole donors on either side
    are the harder and more honest test.

    Parameters
    ----------
    ref
        Cells.
    by
        Column of ``ref.obs`` with the donor, sample or batch, each of which goes to one side as a whole.
        None: every cell by itself.
    fraction
        Share of the cells for the first part, above 0 and below 1. Whole donors come as near to it as their
        random order allows.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    The cells to mix and the reference, both in the order of `ref`; each cell is in one of them. Rare types may
    be in one only.

    Raises
    ------
    MissingKeyError
        If the column is not in ``ref.obs``; the message says what is.
    InputError
        If a part would be empty, or cells have no donor.

    Examples
    --------
    >>> import scdance as sd
    >>> cells = sd.datasets.toy_clusters(n_obs=100, n_vars=60, k=3, n_de=10, batches=4)
    >>> mixing, ref = sd.datasets.split_reference(cells, by="batch")
    >>> set(mixing.obs["batch"]) & set(ref.obs["batch"])
    set()
    """
    import pandas as pd

    if not 0 < fraction < 1:
        msg = f"fraction is {fraction}, but must be a share of the cells, above 0 and below 1."
        raise InputError(msg)
    if by is None:
        group = np.arange(ref.n_obs)
    else:
        values = column(ref.obs, by, where="ref.obs", what="the column of donors or batches", argument="by")
        group = pd.factorize(values)[0]
    if (group < 0).any():
        msg = f"{(group < 0).sum()} of {ref.n_obs} cells have no {by!r}; name it or leave them out of `ref`."
        raise InputError(msg)
    sizes = np.bincount(group)
    if len(sizes) < 2:
        msg = f"{'`ref`' if by is None else f'Column {by!r}'} has {len(sizes)} cells or groups; two parts need 2."
        raise InputError(msg)
    order = generator(random_state).permutation(len(sizes))
    share = np.cumsum(sizes[order])[:-1] / ref.n_obs  # of the first part, if it ends behind this group
    is_first = np.isin(group, order[: 1 + np.argmin(np.abs(share - fraction))])
    return ref[is_first].copy(), ref[~is_first].copy()


def toy_mixtures(
    n_obs: int = 97,
    n_vars: int = 60,
    k: int = 3,
    n_ref: int = 150,
    lfc: float = 2.0,
    depth: float = 1000.0,
    pattern: Literal["blobs", "layers", "gradient", "gp", "random"] = "blobs",
    gene_effect_sd: float = 0.3,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[AnnData, AnnData]:
    """Simulate a small tissue slice and a reference with `k` planted types.

    The cells come from :func:`toy_clusters`; every other cell of a type is mixed into spots by
    :func:`simulate_visium`, the rest is the reference.

    Parameters
    ----------
    n_obs, n_vars
        Number of spots and genes.
    k
        Number of types, at least 2.
    n_ref
        Number of cells of the reference, to within `k`; at least 4 a type. As many are mixed.
    lfc
        How far the genes of a type are raised, in natural logarithms.
    depth
        Mean of the expected total counts of a spot, and of a cell.
    pattern
        How types lie in the tissue, as in :func:`simulate_visium`.
    gene_effect_sd
        Spread of the factors by which the platform changes the genes, in natural logarithms.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    The spots, as from :func:`simulate_visium`, with the truth in ``obsm["true_prop"]`` and coordinates in
    ``obsm["spatial"]``; and the reference, int32 counts (CSR) of other cells with ``obs["cell_type"]``. Both
    have the same genes in the same order.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> spots, ref = sd.datasets.toy_mixtures()
    >>> spots.shape, ref.obs["cell_type"].nunique()
    ((97, 60), 3)
    """
    k, n_obs = whole_number(k, "k", least=2), whole_number(n_obs, "n_obs", least=2)
    n_ref = whole_number(n_ref, "n_ref", least=4 * k)
    for_cells, for_spots = generator(random_state).spawn(2)
    n_de = max(n_vars // (2 * k), 1)
    cells = toy_clusters(2 * n_ref, n_vars, k, n_de=n_de, lfc=lfc, depth=depth, random_state=for_cells)
    is_mixed = cells.obs.groupby("cell_type", observed=True).cumcount().to_numpy() % 2 == 0
    side = int(np.ceil(np.sqrt(n_obs)))
    spots = simulate_visium(
        cells[is_mixed],
        "cell_type",
        lattice=_layout("hex", side, side).xy[:n_obs],
        pattern=pattern,
        lengthscale=side / 5,
        depth=depth,
        gene_effect_sd=gene_effect_sd,
        random_state=for_spots,
    )
    ref = cells[~is_mixed].copy()
    del ref.varm["lfc"]
    return spots, ref


# What is mixed


@dataclass
class _Cells:
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
class _Source:
    """What weights are put on: expression (n, n_vars), its total and type, for cells or mean profiles."""

    counts: sp.csr_array
    total: np.ndarray
    is_type: sp.csr_array


def _mixable(ref: AnnData, labels_key: str, layer: str | None) -> _Cells:
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
    return _Cells(counts[rows], found.codes.astype(np.int32), [str(each) for each in found.categories])


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


def _sources(
    cells: _Cells, members: np.ndarray, expression: str, rng: np.random.Generator
) -> tuple[_Source, sp.csr_array]:
    """What is mixed, and how much of each is in each spot, (n_spots, n_sources)."""
    import scipy.sparse as sp

    size = np.bincount(cells.codes, minlength=len(cells.types))
    if expression == "profiles":
        profiles = sp.csr_array(sp.diags_array(1 / size) @ cells.is_type.T @ sp.csr_array(cells.counts))
        return _Source(profiles, profiles.sum(axis=1), sp.eye_array(len(size), format="csr")), sp.csr_array(members)
    # one random cell of its type for each member
    spot, kind = (np.repeat(each.ravel(), members.ravel()) for each in np.indices(members.shape))
    by_type = np.argsort(cells.codes, kind="stable")
    drawn = by_type[(np.cumsum(size) - size)[kind] + rng.integers(size[kind])]
    mixture = sp.csr_array((np.ones(len(drawn)), (spot, drawn)), shape=(len(members), len(cells.codes)))
    counts = sp.csr_array(cells.counts, dtype=np.float64)
    return _Source(counts, counts.sum(axis=1), cells.is_type), mixture


def _members(codes: np.ndarray, size: int, n_types: int, replace: bool, rng: np.random.Generator) -> np.ndarray:
    """Rows of the cells of one pseudo-spot with at least `n_types` types."""
    for _ in range(TRIES_PER_SPOT):
        rows = rng.choice(len(codes), size, replace=replace)
        if n_types == 1 or len(np.unique(codes[rows])) >= n_types:
            return rows
    msg = f"No draw of {size} cells had min_types={n_types} types in {TRIES_PER_SPOT} tries; pass fewer, or more cells."
    raise InputError(msg)


# Where the spots are, and what is there


@dataclass
class _Layout:
    """Coordinates in pixels, distance between neighbours, and rows and columns of the lattice if it is one."""

    xy: np.ndarray
    pitch: float
    array: pd.DataFrame


def _layout(lattice: Any, n_rows: int, n_cols: int) -> _Layout:
    import pandas as pd

    if not isinstance(lattice, str):
        return _given(np.array(lattice, dtype=np.float64))
    one_of(lattice, LATTICES, "lattice")
    n_rows, n_cols = whole_number(n_rows, "n_rows", least=1), whole_number(n_cols, "n_cols", least=1)
    row, col = (each.ravel().astype(np.int32) for each in np.indices((n_rows, n_cols)))
    x, y = col * PITCH, row * PITCH
    if lattice == "hex":  # every other row is shifted by half a pitch; Visium counts columns in half pitches
        col = 2 * col + row % 2
        x, y = col * PITCH / 2, row * PITCH * np.sqrt(0.75)
    return _Layout(np.column_stack([x, y]), PITCH, pd.DataFrame({"array_row": row, "array_col": col}))


def _given(xy: np.ndarray) -> _Layout:
    import pandas as pd
    from scipy.spatial import cKDTree

    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) < 2 or not np.isfinite(xy).all():
        msg = (
            f"lattice must be one of {listed(LATTICES)}, or finite coordinates of at least 2 spots, (n_spots, 2); "
            f"found an array of shape {xy.shape}."
        )
        raise InputError(msg)
    pitch = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    if pitch == 0:
        msg = "Most of the coordinates in lattice occur more than once; pass one place for each spot."
        raise InputError(msg)
    return _Layout(xy, pitch, pd.DataFrame(index=range(len(xy))))


def _bleeding(spots: _Layout, share: float) -> sp.csr_array:
    """Where the RNA of each spot (column) ends up (row): `share` in the ring around it; columns sum to 1."""
    import scipy.sparse as sp
    from scipy.spatial import cKDTree

    n = len(spots.xy)
    i, j = cKDTree(spots.xy).query_pairs(NEIGHBOUR_REACH * spots.pitch, output_type="ndarray").T
    ring = sp.csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(n, n))
    degree = ring.sum(axis=0)
    lost = np.where(degree > 0, share, 0.0)
    return sp.csr_array(sp.diags_array(1 - lost) + ring @ sp.diags_array(lost / np.maximum(degree, 1)))


def _field(pattern: str, xy: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Logits of the types, (n_spots, k); but for blobs and layers, each has mean 0 and standard deviation 1."""
    if pattern == "blobs":
        return _blobs(xy, k, lengthscale, rng)
    if pattern == "layers":
        return _layers(xy[:, 1], k, lengthscale, rng)
    if pattern == "gp":
        logits = _waves(xy, k, lengthscale, rng)
    elif pattern == "gradient":
        angle = rng.uniform(0, 2 * np.pi) + np.arange(k) * 2 * np.pi / k
        logits = xy @ np.stack([np.cos(angle), np.sin(angle)])
    else:
        logits = rng.standard_normal((len(xy), k))
    centred = logits - logits.mean(axis=0)
    sd = centred.std(axis=0)
    return centred / np.where(sd > 0, sd, 1.0)


def _layers(y: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Parabolas around equally spaced depths: neighbours change places over a width of `lengthscale`."""
    width = max(np.ptp(y), 1.0) / k
    centre = y.min() + (rng.permutation(k) + 0.5) * width
    return -((y[:, None] - centre) ** 2) / (2 * width * lengthscale)


def _blobs(xy: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian bumps around random places, as many of each type."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    n_blobs = max(round(np.prod(high - low) / (np.pi * (BLOB_RADIUS * lengthscale) ** 2 * k)), 1)
    logits = np.zeros((len(xy), k))
    for kind in range(k):
        for centre in rng.uniform(low, high, (n_blobs, 2)):
            logits[:, kind] += BLOB_HEIGHT * np.exp(-((xy - centre) ** 2).sum(axis=1) / (2 * lengthscale**2))
    return logits


def _waves(xy: np.ndarray, k: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random fields with a squared exponential kernel, as sums of random cosines (Fourier features)."""
    frequency = rng.normal(0, 1 / lengthscale, (2, N_WAVES))
    waves = np.cos(xy @ frequency + rng.uniform(0, 2 * np.pi, N_WAVES))
    return waves @ rng.normal(0, np.sqrt(2 / N_WAVES), (N_WAVES, k))


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


# What is counted


def _drawn(
    weights: sp.csr_array, genes: sp.csr_array, ambient: float, theta: float | None, rng: np.random.Generator
) -> sp.csr_array:
    """Counts around the mixtures, with a share of the expected counts from their mean profile."""
    import scipy.sparse as sp

    profile = weights.sum(axis=0) @ genes
    profile = profile / profile.sum()
    out = []
    step = max(1, ENTRIES_PER_BLOCK // genes.shape[1])
    for start in range(0, weights.shape[0], step):
        mean = (weights[start : start + step] @ genes).toarray()
        mean = (1 - ambient) * mean + ambient * mean.sum(axis=1, keepdims=True) * profile
        if theta is not None:  # negative binomial = Poisson around a gamma with mean 1 and variance 1 / theta
            mean *= rng.standard_gamma(theta, mean.shape) / theta
        out.append(sp.csr_array(rng.poisson(mean).astype(np.int32)))
    return sp.vstack(out, format="csr")


def _spots(
    counts: sp.csr_array, ref: AnnData, obs: pd.DataFrame, truth: np.ndarray, truth_rna: np.ndarray, types: list[str]
) -> AnnData:
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    x = sp.csr_matrix(counts)
    x.sort_indices()
    x.eliminate_zeros()
    columns = [name.replace("/", "|") for name in types]  # HDF5 takes no "/"
    rna = truth_rna / truth_rna.sum(axis=1, keepdims=True)
    obsm = {
        name: pd.DataFrame(values, index=obs.index, columns=columns)
        for name, values in {"true_prop": truth, "true_prop_rna": rna}.items()
    }
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=ref.var_names.copy()), obsm=obsm)


def _record(simulator: str, **given: Any) -> dict[str, Any]:
    """The parameters as h5ad takes them: no None, no generator."""
    seed = given.pop("random_state")
    if not isinstance(seed, np.random.Generator):
        given["random_state"] = seed
    return {"simulator": simulator, **{name: value for name, value in given.items() if value is not None}}


def _above_zero(**given: float) -> None:
    for name, value in given.items():
        if not 0 < value < np.inf:
            msg = f"{name} is {value}, but must be a finite number above 0."
            raise InputError(msg)


def _at_least_zero(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value < np.inf:
            msg = f"{name} is {value}, but must be a finite number of at least 0."
            raise InputError(msg)


def _shares(**given: float) -> None:
    for name, value in given.items():
        if not 0 <= value < 1:
            msg = f"{name} is {value}, but must be a share, from 0 to below 1."
            raise InputError(msg)
