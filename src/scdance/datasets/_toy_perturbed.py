"""A small screen whose responses are planted."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, above_zero, whole_number
from scdance.pp import generator

from ._toy import DEPTH_SD, ENTRIES_PER_BLOCK, GENE_SD, _negative_binomial

if TYPE_CHECKING:
    from anndata import AnnData

CONTROL, CONTROL_SHARE = "control", 0.2  # name of the unperturbed cells, and how many of all they are
KNOCK_DOWN = np.log(4)  # by which a perturbation lowers its own gene, in natural logarithms


def toy_perturbed(
    n_obs: int = 1200,
    n_vars: int = 200,
    n_singles: int = 8,
    n_doubles: int = 6,
    n_de: int = 20,
    lfc: float = 1.0,
    shared: float = 0.5,
    depth: float = 3000.0,
    theta: float = 2.0,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate a screen in which single genes and pairs of them are perturbed.

    A perturbation lowers its own gene to a quarter and moves `n_de` others up or down, and all perturbations move
    another `n_de` alike: the response that cells have to any of them. Two perturbations in one cell add up, in
    logarithms. Each cell draws negative binomial counts around the profile times its own depth; a fifth of the cells
    are controls, and the perturbations have equally many of the others.

    Parameters
    ----------
    n_obs, n_vars
        Number of cells and genes.
    n_singles
        Number of perturbed genes, at least 2: the first ones of the object.
    n_doubles
        Number of perturbed pairs of them, neighbours first.
    n_de
        Number of genes that a perturbation moves, at most `n_vars`, and as many that all move alike.
    lfc
        How far a perturbation moves its genes, in natural logarithms, half of them down.
    shared
        How far all of them move the common ones, as part of `lfc`.
    depth, theta
        Mean counts of a cell and their inverse dispersion, as in :func:`toy_clusters`.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``, ``"control"``, ``"gene_0"`` or ``"gene_0+gene_1"`` in
    ``obs["perturbation"]``, a category, and the planted log fold changes in ``varm["lfc"]``, a DataFrame
    (n_vars, n_perturbations).

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_perturbed(n_obs=100, n_singles=2, n_doubles=1)
    >>> adata.obs["perturbation"].cat.categories.tolist()
    ['control', 'gene_0', 'gene_0+gene_1', 'gene_1']
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    pairs = sorted(combinations(range(n_singles), 2), key=lambda pair: (pair[1] - pair[0], pair))
    _check(n_obs, n_vars, n_singles, n_doubles, n_de, len(pairs))
    above_zero(theta, "theta")
    rng = generator(random_state)
    base = rng.normal(0, GENE_SD, n_vars)
    common = _moved(n_vars, n_de, shared * lfc, rng)
    single = np.array([common + _moved(n_vars, n_de, lfc, rng) for _ in range(n_singles)])
    single[np.arange(n_singles), np.arange(n_singles)] = -KNOCK_DOWN
    double = [single[a] + single[b] for a, b in pairs[:n_doubles]]
    change = np.vstack([np.zeros(n_vars), single, *double])
    genes = [f"gene_{i}" for i in range(n_vars)]
    names = [CONTROL, *genes[:n_singles], *(f"{genes[a]}+{genes[b]}" for a, b in pairs[:n_doubles])]

    n_control = round(CONTROL_SHARE * n_obs)
    others = 1 + np.arange(n_obs - n_control) % (len(names) - 1)
    codes = rng.permutation(np.concatenate([np.zeros(n_control, dtype=int), others]))
    log_depth = np.log(depth) + rng.normal(-(DEPTH_SD**2) / 2, DEPTH_SD, n_obs)
    profile = np.exp(base + change)
    log_profile = np.log(profile / profile.sum(axis=1, keepdims=True))
    counts = []
    step = max(1, ENTRIES_PER_BLOCK // n_vars)
    for start in range(0, n_obs, step):
        rows = slice(start, start + step)
        log_mean = log_profile[codes[rows]] + log_depth[rows, None]
        counts.append(sp.csr_matrix(_negative_binomial(log_mean, theta, rng)))
    return anndata.AnnData(
        sp.vstack(counts, format="csr"),
        obs=pd.DataFrame(
            {"perturbation": pd.Categorical(np.array(names)[codes])}, index=[f"cell_{i}" for i in range(n_obs)]
        ),
        var=pd.DataFrame(index=genes),
        varm={"lfc": pd.DataFrame(change[1:].T.astype(np.float32), index=genes, columns=names[1:])},
    )


def _moved(n_vars: int, n_de: int, lfc: float, rng: np.random.Generator) -> np.ndarray:
    """Log fold changes of all genes, of which some go up and as many down."""
    change = np.zeros(n_vars)
    change[rng.choice(n_vars, n_de, replace=False)] = np.where(np.arange(n_de) % 2, lfc, -lfc)
    return change


def _check(n_obs: int, n_vars: int, n_singles: int, n_doubles: int, n_de: int, n_pairs: int) -> None:
    whole_number(n_singles, "n_singles", least=2)
    whole_number(n_vars, "n_vars", least=n_singles)
    whole_number(n_obs, "n_obs", least=2 * (1 + n_singles + n_doubles))
    for name, value, most, what in (("n_doubles", n_doubles, n_pairs, "pairs"), ("n_de", n_de, n_vars, "genes")):
        if whole_number(value, name) > most:
            msg = f"{name} is {value}, but there are only {most} {what}."
            raise InputError(msg)
