"""GLUE by scglue: an autoencoder of each modality, joined by a graph of their features."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack

from scdance._checks import above_zero, package, whole_number
from scdance._core.adapter import Adapter, contained, set_for_now
from scdance._core.cells import Cells, Pair
from scdance.graph import correlations
from scdance.pp import Recipe
from scdance.train import components, recipes_to_reduce, scores, target_of, torch_device

from ._matcher import Matcher


class GLUE(Adapter, Matcher):
    """Embed both modalities by autoencoders that a graph of their features joins [Cao2022]_, by scglue.

    The counts of each modality are decoded from products of the place of a cell and those of the features, which come
    from a graph that links features of either modality: thereby places mean the same in both. A discriminator of the
    modalities, which is misled, mixes the cells. Of pairs that teach, each modality is also decoded from the place by
    the other, and both places are to point the same way [Tu2022]_. All other cells take part unpaired.

    When to use
    -----------
    To compare with a method that many use, with few cells or a GPU.

    When not
    --------
    Thousands of cells without a GPU: at about a second for an epoch of 300 cells, they take hours. New cells.

    Differs from the paper
    ----------------------
    Model and training are those of the authors' package, but pairs weigh more, unless ``preset="paper"``, and all cells
    the same. Links are correlations over the pairs that teach: where on the genome features lie is not told.

    Parameters
    ----------
    n_source, n_target
        Components of each modality that its encoder sees, fewer where there are fewer cells; where a modality has no
        more features, or with None, the features themselves.
    n_latent
        Dimensions of the common space.
    n_links
        Features of the other modality that each is linked with: those that correlate most with it, of either sign.
    pairs
        Weight of each of the losses that pairs have beside those of all cells.
    epochs
        Most passes over the cells in each of two stages, fewer where the loss stays; None: 48 / `lr` steps.
    lr, batch_size
        Learning rate, and cells per step.
    n_top_genes, n_top_peaks
        Genes or peaks with the largest deviance that are kept; None: all.
    """

    n_source: int | None = 100
    n_target: int | None = 100
    n_latent: int = 50
    n_links: int = 3
    pairs: float = 1.0
    epochs: int | None = 100
    lr: float = 2e-3
    batch_size: int = 128
    n_top_genes: int | None = 2000
    n_top_peaks: int | None = 10_000

    cite = "Cao2022"
    needs = ("counts",)
    extras = (("scglue", "glue"),)
    keeps = ("places_",)
    presets = {"paper": {"pairs": 0.02, "epochs": None}}

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def check(self) -> None:
        super().check()
        for name in ("n_latent", "n_links", "batch_size", *(() if self.epochs is None else ("epochs",))):
            whole_number(getattr(self, name), name, least=1)
        above_zero(self.lr, "lr")

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        scglue, device = package("scglue", extra="glue", why=self.name), torch_device(self.device)
        sides = {"source": (pair.source, rows[:, 0]), "target": (target_of(pair), rows[:, 1])}
        tables = {role: self.table(role, cells, at) for role, (cells, at) in sides.items()}
        x, y = (cells.part(at).x for cells, at in sides.values())

        def model(*data: Any, **size: Any) -> Any:
            made = scglue.models.PairedSCGLUEModel(*data, **size)
            made.net.device = device
            return made

        config = {"GRAPH_SHUFFLE_NUM_WORKERS": 0, "DATALOADER_PIN_MEMORY": False, "ALLOW_TRAINING_INTERRUPTION": False}
        with (
            contained(self.name, loud=bool(self.runtime.progress)),
            set_for_now(scglue.log, console_log_level=logging.CRITICAL),
            set_for_now(scglue.config, CPU_ONLY=True, **config),  # else it chooses a GPU and tells the environment
            tempfile.TemporaryDirectory() as folder,
        ):
            told = {"use_highly_variable": False, "use_rep": "scores", "use_batch": "batch", "use_obs_names": True}
            for table in tables.values():
                scglue.models.configure_dataset(table, "NB", **told)
            fitted = scglue.models.fit_SCGLUE(
                tables, guidance(x, y, self.n_links), model, skip_balance=True,
                init_kws={"latent_dim": self.n_latent, "random_seed": self.random_state},
                compile_kws={"lr": self.lr} | {f"lam_{of}": self.pairs for of in ("joint_cross", "real_cross", "cos")},
                fit_kws={"directory": folder, "data_batch_size": self.batch_size, "max_epochs": self.epochs or "AUTO"},
            )  # fmt: skip
            self.places_ = {}
            for role, (cells, _) in sides.items():
                self.places_[role] = np.zeros((cells.n_obs_in, self.n_latent), dtype=np.float32)
                self.places_[role][cells.rows] = fitted.encode_data(role, tables[role])

    def table(self, role: str, cells: Cells, at: np.ndarray) -> Any:
        """Cells of a modality as scglue takes them; those at `at` bear the name that their pair has in both."""
        import anndata
        import pandas as pd

        names = np.array([f"{role}{i}" for i in range(cells.n_obs)], dtype=object)
        names[at] = [f"pair{i}" for i in range(len(at))]
        obs = pd.DataFrame({"batch": "" if cells.batch is None else cells.batch.astype(str)}, index=names)
        var = pd.DataFrame(index=[f"{role}{i}" for i in range(cells.n_vars)])
        loadings = components(cells, at, getattr(self, f"n_{role}"), random_state=self.random_state)
        seen = {"scores": scores(cells, slice(None), loadings, unit_rows=True)}
        return anndata.AnnData(cells.part().counts, obs, var, obsm=seen)

    def places(self, cells: Cells, role: str) -> np.ndarray:
        return self.places_[role][cells.rows]  # type: ignore[no-any-return]


def guidance(x: Any, y: Any, n: int) -> Any:
    """Graph of the features of the same cells: of each the `n` largest correlations with the others, and a loop."""
    import networkx as nx

    r = correlations(csr_matrix(hstack([x, y])), np.arange(x.shape[1]))[x.shape[1] :]
    graph = nx.Graph()
    for of, to, table in (("target", "source", r), ("source", "target", r.T)):
        for i, row in enumerate(table):
            graph.add_edge(f"{of}{i}", f"{of}{i}", weight=1.0, sign=1)
            for j in np.argsort(-np.abs(row), kind="stable")[:n]:
                if row[j]:
                    graph.add_edge(f"{of}{i}", f"{to}{j}", weight=float(abs(row[j])), sign=int(np.sign(row[j])))
    return graph
