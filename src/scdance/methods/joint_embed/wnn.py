"""Weighted nearest neighbours by muon, and the space that their graph spans."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, eigsh

from scdance._checks import package, whole_number
from scdance._core.cells import Pair
from scdance.graph import knn, normalize
from scdance.train import target_of

from ._route import Route

CANDIDATES, BANDWIDTH = 200, 20  # neighbours of a cell in each modality: to choose from, and to measure its scale by


class WNN(Route):
    """Join the neighbours of both modalities, weighted anew in each cell [Hao2021]_, by muon [Bredikhin2022]_.

    How well the neighbours of a cell in one modality foretell the cell in that and in the other says how much each
    modality counts for it. With these weights one graph of neighbours is made. That graph is the result of the method,
    and not a space; the space here is that of its diffusion: the leading eigenvectors of the random walk on the graph,
    weighted by what the walks of all lengths leave of them, as for pseudotime [Haghverdi2016]_. Cells are close in it
    where many walks lead from one to the other.

    When to use
    -----------
    To see what the graph that Seurat users know makes of the data, beside spaces that are learnt.

    When not
    --------
    New cells, or distances within a type: walks say which cells are joined, and little of how far apart they are.
    Batches that differ.

    Differs from the paper
    ----------------------
    The paper has the graph alone. The modalities enter as components of a singular value decomposition without
    centring, each cell at length 1. Cells that lack a modality are not in the graph.

    Parameters
    ----------
    n_source, n_target
        Components of each modality.
    n_neighbors
        Neighbours of each cell, itself not counted.
    n_components
        Dimensions of the space.
    n_top_peaks
        Peaks with the largest deviance that are kept; None: all.
    """

    n_source: int = 30
    n_target: int = 30
    n_neighbors: int = 20
    n_components: int = 30
    n_top_peaks: int | None = 30_000

    cite = "Hao2021"
    extras = (("muon", "muon"),)

    def check(self) -> None:
        for name in ("n_source", "n_target", "n_neighbors", "n_components"):
            whole_number(getattr(self, name), name, least=1)

    def embed(self, pair: Pair) -> np.ndarray:
        import anndata
        import mudata
        import pandas as pd

        muon = package("muon", extra="muon", why=self.name)
        both, n = pair.both, len(pair.both)
        k, names = min(self.n_neighbors, n // 2), pd.Index([str(i) for i in range(n)])
        mods = {}
        for side, (role, cells) in enumerate((("source", pair.source), ("target", target_of(pair)))):
            z = self.components(cells, both[:, side], getattr(self, f"n_{role}"))[both[:, side]]
            told = {"params": {"n_neighbors": k, "use_rep": "z", "metric": "euclidean"}, "distances_key": "distances"}
            mods[role] = anndata.AnnData(
                obs=pd.DataFrame(index=names), obsm={"z": z}, obsp={"distances": knn(z, k)}, uns={"neighbors": told}
            )
        mdata = mudata.MuData(mods)
        candidates, bandwidth = min(CANDIDATES, n - 2), min(BANDWIDTH, n // 2)
        muon.pp.neighbors(
            mdata, k, n_multineighbors=candidates, n_bandwidth_neighbors=bandwidth, random_state=self.random_state
        )
        self.notes_ = {"mean_weight_of_source": float(mdata.obs["source:mod_weight"].mean())}
        z = np.full((pair.n_obs, min(self.n_components, n - 2)), np.nan, dtype=np.float32)
        z[(pair.at >= 0).all(axis=1)] = walk_space(
            csr_matrix(mdata.obsp["connectivities"]), z.shape[1], self.rng("walk")
        )
        return z


def walk_space(a: csr_matrix, k: int, rng: np.random.Generator) -> np.ndarray:
    """Where the nodes of a graph of weights `a`, (n, n), symmetric, lie in its `k` slowest random motions.

    The right eigenvectors of D⁻¹ A with the largest eigenvalues λ, without the constant one, each times Σ λᵗ over the
    steps t from 1 to n. That sum is λ / (1 − λ) of the diffusion pseudotime, but for a graph in pieces, where λ is 1.
    """
    n, degree = a.shape[0], np.asarray(a.sum(axis=1), dtype=np.float64).ravel()
    s, root = normalize(a).astype(np.float64), np.sqrt(np.where(degree > 0, degree, 1))
    steady = root / np.linalg.norm(root)
    # the steady state, which tells nothing, is taken out, and not the first vector: a graph in pieces has several
    walk = LinearOperator(a.shape, matvec=lambda x: s @ x - steady * (steady @ x), dtype=np.float64)
    values, vectors = eigsh(walk, k=k, which="LA", v0=rng.standard_normal(n))
    values, vectors = np.clip(values[::-1], 0, 1), vectors[:, ::-1]
    left = np.where(values > 1 - 1 / n**2, n, values * (1 - values**n) / np.maximum(1 - values, 1 / n**2))
    z = vectors / steady[:, None] * left
    return (z * np.sign(z[np.abs(z).argmax(axis=0), np.arange(k)])).astype(np.float32)
