"""Communities of the neighbour graph in principal components: what is found without looking at places."""

from __future__ import annotations

from typing import ClassVar, Self

from scdance._checks import whole_number
from scdance._core.cells import Cells
from scdance.pp import Recipe

from ._domains import Domains, principal_components


class Communities(Domains):
    """Base of methods that partition the graph of nearest spots in principal components, wherever they lie.

    Parameters
    ----------
    n_neighbors
        Nearest spots in principal components, the spot itself counted, as in scanpy.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_components
        Number of principal components.
    """

    n_neighbors: int = 15
    n_top_genes: int | None = 3000
    n_components: int = 50

    extras = (("igraph", "leiden"),)
    keeps = ("labels_", "refined_", "embedding_")
    control = True
    partition: ClassVar[str]

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        whole_number(self.n_neighbors, "n_neighbors", least=2)

    def fit(self, *, cells: Cells) -> Self:
        z = principal_components(cells, self.n_components, random_state=self.random_state)
        self.divide(z, cells, self.partition, n_neighbors=self.n_neighbors)
        return self
