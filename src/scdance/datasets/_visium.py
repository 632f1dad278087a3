"""Spots of a tissue slice whose composition is known because we mixed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from scdance._checks import one_of
from scdance.pp import generator

from ._mixing import (
    above_zero,
    as_spots,
    at_least_zero,
    drawn,
    gamma_noise,
    mixable,
    present_types,
    record,
    shares,
    sources,
)
from ._tissue import PATTERNS, bleeding, field, layout, softmax

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike


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
    above_zero(lengthscale=lengthscale, temperature=temperature, n_cells_per_spot=n_cells_per_spot, depth=depth)
    above_zero(theta=1.0 if theta is None else theta)
    at_least_zero(capture_sd=capture_sd, gene_effect_sd=gene_effect_sd)
    shares(ambient=ambient, bleed=bleed)
    spots = layout(lattice, n_rows, n_cols)
    cells = mixable(ref, labels_key, layer)
    present = present_types(cells, drop_types)
    rng = generator(random_state)

    proportions = np.zeros((len(spots.xy), len(cells.types)))
    logits = field(pattern, spots.xy / spots.pitch, len(present), lengthscale, rng)
    proportions[:, present] = softmax(logits / temperature)
    n_cells = np.maximum(rng.poisson(n_cells_per_spot, len(spots.xy)), 1)
    members = rng.multinomial(n_cells, proportions)  # cells of each type in each spot

    source, mixture = sources(cells, members, expression, rng)
    truth_rna = (mixture @ sp.diags_array(source.total) @ source.is_type).toarray()
    genes = source.counts @ sp.diags_array(rng.lognormal(0, gene_effect_sd, source.counts.shape[1]))
    capture = rng.lognormal(-(capture_sd**2) / 2, capture_sd, len(spots.xy))
    weights = sp.diags_array(capture) @ bleeding(spots, bleed) @ mixture
    weights = sp.csr_array(weights * (depth / (weights @ genes.sum(axis=1)).mean()))

    truth = members / n_cells[:, None]
    names = [f"spot_{i}" for i in range(len(spots.xy))]
    obs = spots.array.assign(n_cells=n_cells.astype(np.int32), expected_counts=weights @ genes.sum(axis=1))
    counts = drawn(weights, genes, rng, ambient=ambient, noise=gamma_noise(theta, rng))
    adata = as_spots(counts, ref.var_names, obs.set_axis(names), truth, truth_rna, cells.types)
    adata.obsm["spatial"] = spots.xy
    adata.uns["simulation"] = record(
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
