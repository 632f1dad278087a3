"""Where cells stand in the cell cycle, by genes that are known to be on in two of its phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

# Tirosh2016
S_GENES = (
    *("MCM5", "PCNA", "TYMS", "FEN1", "MCM2", "MCM4", "RRM1", "UNG", "GINS2", "MCM6", "CDCA7", "DTL", "PRIM1"),
    *("UHRF1", "MLF1IP", "HELLS", "RFC2", "RPA2", "NASP", "RAD51AP1", "GMNN", "WDR76", "SLBP", "CCNE2", "UBR7"),
    *("POLD3", "MSH2", "ATAD2", "RAD51", "RRM2", "CDC45", "CDC6", "EXO1", "TIPIN", "DSCC1", "BLM", "CASP8AP2"),
    *("USP1", "CLSPN", "POLA1", "CHAF1B", "BRIP1", "E2F8"),
)
G2M_GENES = (
    *("HMGB2", "CDK1", "NUSAP1", "UBE2C", "BIRC5", "TPX2", "TOP2A", "NDC80", "CKS2", "NUF2", "CKS1B", "MKI67"),
    *("TMPO", "CENPF", "TACC3", "FAM64A", "SMC4", "CCNB2", "CKAP2L", "CKAP2", "AURKB", "BUB1", "KIF11", "ANP32E"),
    *("TUBB4B", "GTSE1", "KIF20B", "HJURP", "CDCA3", "HN1", "CDC20", "TTK", "CDC25C", "KIF2C", "RANGAP1", "NCAPD2"),
    *("DLGAP5", "CDCA2", "CDCA8", "ECT2", "KIF23", "HMMR", "AURKA", "PSRC1", "ANLN", "LBR", "CKAP5", "CENPE"),
    *("CTCF", "NEK2", "G2E3", "GAS2L3", "CBX5", "CENPA"),
)
FEWEST = 5  # genes of either phase that must be there
LEVELS = 24  # of expression, of equal numbers of genes
N_CONTROLS = min(len(S_GENES), len(G2M_GENES))  # drawn of each level


def cell_cycle_scores(x: Any, var_names: Iterable[str]) -> np.ndarray | None:
    """How much each cell expresses the genes of the phases S and G2/M [Tirosh2016]_, beyond others of their level.

    The mean of the 43 genes of S and that of the 54 of G2/M, less the mean of genes that are drawn from the same
    levels of expression: what :func:`scanpy.tl.score_genes_cell_cycle` gives where the genes stand in the order of
    their names. The draw does not depend on their order, and leaves the global random state alone.

    Parameters
    ----------
    x
        Log-normalised RNA, (n_obs, n_vars), CSR or dense.
    var_names
        Gene symbols, (n_vars,), of human or mouse: upper and lower case are not told apart.

    Returns
    -------
    Scores of S and G2/M, (n_obs, 2) float32, in the unit of `x`; None where fewer than five genes of a phase are
    there, or no others to compare with.

    Raises
    ------
    InputError
        If there is not one name per gene.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> names = ["Mcm5", "Pcna", "Tyms", "Fen1", "Mcm2", "Cdk1", "Tpx2", "Ndc80", "Cks2", "Mki67", "Cd4", "Cd8a"]
    >>> x = np.array([[2.0] * 5 + [0.0] * 7, [0.0] * 5 + [2.0] * 5 + [0.0] * 2])
    >>> pp.cell_cycle_scores(x, names).argmax(axis=1).tolist()
    [0, 1]
    """
    symbols = np.char.upper(np.asarray([str(name) for name in var_names], dtype=str))
    if x.shape[1] != len(symbols):
        msg = f"x has {x.shape[1]} genes, but there are {len(symbols)} names; pass one name per gene."
        raise InputError(msg)
    order = np.argsort(symbols, kind="stable")
    phases = [order[np.isin(symbols[order], genes)] for genes in (S_GENES, G2M_GENES)]
    if min(map(len, phases)) < FEWEST:
        return None
    weights = np.zeros((len(symbols), 2))
    for phase, genes in enumerate(phases):
        controls = _controls(_levels(x), order, genes)
        if not len(controls):
            return None
        weights[genes, phase] = 1 / len(genes)
        weights[controls, phase] = -1 / len(controls)
    return np.asarray(x @ weights, dtype=np.float32)


def _levels(x: Any) -> np.ndarray:
    """Level of the mean expression of each gene, (n_vars,) int."""
    from scipy.stats import rankdata

    total = np.asarray(x.sum(axis=0, dtype=np.float64)).ravel()
    means = (total / x.shape[0]).astype(np.float32)  # genes of one mean are one, in whatever order it was summed
    return (rankdata(means, method="min") // max(round(len(means) / LEVELS), 1)).astype(int)


def _controls(levels: np.ndarray, order: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Positions of genes of the levels of `genes`, drawn in the `order` of their names, without these themselves."""
    rng = np.random.RandomState(0)  # scanpy's draw
    drawn = []
    for level in np.unique(levels[genes]):
        there = order[levels[order] == level]
        some = rng.choice(len(there), N_CONTROLS, replace=False) if len(there) > N_CONTROLS else slice(None)
        drawn.append(there[some])
    return np.setdiff1d(np.concatenate(drawn), genes)
