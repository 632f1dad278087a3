"""A random forest on which of two genes is higher in a cell."""

from __future__ import annotations

import numpy as np
from scipy import sparse as sp

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.pp import Moments, blocks, group_moments

from ._annotator import Annotator

DETECTED, RARELY, STRONG = 0.05, 0.001, 2.0  # share of cells with a gene; less will do if its mean where seen is high
MOST_USES = 3  # of a gene among the pairs of a type
CELLS_PER_TREE = 20_000  # drawn at most
FLOOR = 1e-3  # least share of a type, so that no probability is 0
ROWS = 256  # cells that go through all trees, or whose genes are all compared, at once
PAPER = {"n_type_genes": 10, "n_type_pairs": 25, "n_trees": 1000}


class SingleCellNet(Annotator):
    """Annotate by a random forest on pairs of genes, of which one is higher [Tan2019]_.

    For each type the genes that go up and down with it are found, and among their pairs those whose order in a cell
    says most. A forest is trained on these yes-or-no answers, together with scrambled cells of a type of its own, so
    that what is like nothing need not look like a type. Only the order of genes within a cell counts: depth,
    logarithm and any other increasing scale of a cell change nothing.

    When to use
    -----------
    Across protocols and laboratories, which change the scale of cells more than the order of their genes.

    When not
    --------
    Where types differ in the degree of one programme, or cells are so shallow that most genes are tied at 0.

    Differs from the paper
    ----------------------
    The share of the trees that call a cell scrambled is taken off before probabilities are calibrated; unknown cells
    are found by `reject`, as in every method here. Genes and pairs are scored with all cells, pairs in both orders
    and from group means at once, exactly; a gene or pair that does not vary is left out. Each tree draws from all
    cells, with types weighing the same, at most 20,000 cells; the default has fewer trees. Genes that the query
    lacks count as 0.

    Parameters
    ----------
    n_type_genes
        Genes that go up most with each type, and as many that go down.
    n_type_pairs
        Pairs of these genes for each type; a gene is in at most three.
    n_trees
        Trees of the forest.
    n_rand
        Scrambled cells; 0: none.
    """

    n_top_genes: int | None = None
    n_type_genes: int = 30
    n_type_pairs: int = 80
    n_trees: int = 200
    n_rand: int = 100

    cite = "Tan2019"
    skips_missing = False
    presets = {"paper": {**PAPER, "n_rand": 70}, "dance": PAPER}

    def check(self) -> None:
        super().check()
        for name, least in (("n_type_genes", 1), ("n_type_pairs", 1), ("n_trees", 1), ("n_rand", 0)):
            if getattr(self, name) < least:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least {least}."
                raise InputError(msg)

    def teach(self, cells: Cells, *, stage: str) -> None:
        n_types = len(cells.categories)
        moments = group_moments(cells.x, cells.labels, n_types)
        self.correlations_ = np.nan_to_num(_correlations(moments)).astype(np.float32)
        genes = _type_genes(moments, self.n_type_genes)
        some = np.unique(np.concatenate(genes))
        few, found = cells.part(columns=some), []
        for code, mine in enumerate(genes):
            score = _pair_scores(few, np.searchsorted(some, mine), code)
            found.append(mine[_greedy_pairs(score, self.n_type_pairs)])
        self.pairs_ = np.unique(np.concatenate(found), axis=0).astype(np.int32)
        if len(self.pairs_) == 0:
            msg = (
                f"None of the {cells.n_vars} genes is higher than another in one type more often than in the rest; "
                "are these counts, and are the labels those of the cells?"
            )
            raise InputError(msg)
        higher = np.concatenate([self._higher(block) for _, block in blocks(cells.x, ROWS)])
        rng = np.random.default_rng([self.random_state, 5])
        x = np.concatenate([higher, _scrambled(higher, self.n_rand, rng)])
        self._grow(x, np.concatenate([cells.labels, np.full(len(x) - len(higher), n_types)]), n_types)

    def logits(self, cells: Cells) -> np.ndarray:
        shares = self._shares(cells)[:, :-1]
        total = shares.sum(axis=1, keepdims=True)
        even = np.full_like(shares, 1 / shares.shape[1])
        return np.log(np.divide(shares, total, out=even, where=total > 0) + FLOOR)

    def doubt(self, cells: Cells) -> np.ndarray:
        return self._shares(cells)[:, -1]

    def weights(self) -> np.ndarray:
        return self.correlations_

    def _higher(self, block: sp.csr_matrix) -> np.ndarray:
        """Which pairs have their first gene above the second, (n_rows, n_pairs) bool; ties have not."""
        genes, where = np.unique(self.pairs_, return_inverse=True)
        first, second = where.reshape(self.pairs_.shape).T
        dense = block[:, genes].toarray()
        return dense[:, first] > dense[:, second]

    def _grow(self, x: np.ndarray, y: np.ndarray, n_types: int) -> None:
        """Train the forest and keep it as flat arrays: where each node goes, and the shares of types in each leaf."""
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            self.n_trees,
            class_weight="balanced",
            max_samples=min(len(x), CELLS_PER_TREE),
            random_state=self.random_state,
        ).fit(x, y)
        self._flatten(forest, n_types + 1)

    def _flatten(self, forest: object, n_columns: int) -> None:
        trees = [each.tree_ for each in forest.estimators_]  # type: ignore[attr-defined]
        self.roots_ = np.cumsum([0, *[tree.node_count for tree in trees[:-1]]]).astype(np.int32)
        self.depth_ = max(tree.max_depth for tree in trees)
        is_leaf = np.concatenate([tree.children_left for tree in trees]) < 0
        self.asks_ = np.where(is_leaf, 0, np.concatenate([tree.feature for tree in trees])).astype(np.int32)
        self.next_ = np.column_stack(  # a "no" goes left, a "yes" right, and a leaf stays where it is
            [
                np.concatenate([getattr(tree, side) + root for tree, root in zip(trees, self.roots_, strict=True)])
                for side in ("children_left", "children_right")
            ]
        ).astype(np.int32)
        self.next_[is_leaf] = np.flatnonzero(is_leaf)[:, None]
        self.leaf_ = (np.cumsum(is_leaf) - 1).astype(np.int32)
        value = np.concatenate([tree.value[tree.children_left < 0, 0] for tree in trees])
        self.leaf_shares_ = np.zeros((len(value), n_columns), dtype=np.float32)
        self.leaf_shares_[:, forest.classes_] = value / value.sum(axis=1, keepdims=True)  # type: ignore[attr-defined]

    def _shares(self, cells: Cells) -> np.ndarray:
        """Mean share of each type in the leaves that a cell reaches, scrambled cells last, (n_obs, n_types + 1)."""
        out = []
        for _, block in blocks(cells.x, ROWS):
            higher = self._higher(block)
            node, row = np.tile(self.roots_, (len(higher), 1)), np.arange(len(higher))[:, None]
            for _ in range(self.depth_):
                node = self.next_[node, higher[row, self.asks_[node]].view(np.int8)]
            out.append(self.leaf_shares_[self.leaf_[node]].mean(axis=1, dtype=np.float64))
        return np.concatenate(out)


def _correlations(moments: Moments) -> np.ndarray:
    """Pearson correlation of each gene with each type's indicator, (n_types, n_vars); NaN where one is constant."""
    n = moments.n.sum()
    mean = moments.total.sum(axis=0) / n
    variance = moments.square.sum(axis=0) / n - mean**2
    sd = np.where(variance > 1e-9 * np.maximum(mean**2, 1e-9), np.sqrt(np.maximum(variance, 0)), np.nan)
    share = np.where((moments.n > 0) & (moments.n < n), moments.n / n, np.nan)
    return (moments.mean - mean) * np.sqrt(share / (1 - share))[:, None] / sd


def _type_genes(moments: Moments, n_type_genes: int) -> list[np.ndarray]:
    """For each type the genes that go up and down most with it, among those that are seen often or strongly."""
    n_cells, filled = moments.n.sum(), moments.filled.sum(axis=0)
    strength = moments.total.sum(axis=0) / np.maximum(filled, 1)
    seen = filled / n_cells
    r = _correlations(moments)
    r[:, ~((seen > DETECTED) | ((seen > RARELY) & (strength > STRONG)))] = np.nan
    chosen = []
    for row in r:
        order = np.argsort(row, kind="stable")[: np.count_nonzero(~np.isnan(row))]  # NaN comes last
        chosen.append(np.unique(np.concatenate([order[:n_type_genes], order[::-1][:n_type_genes]])))
    return chosen


def _pair_scores(cells: Cells, genes: np.ndarray, code: int) -> np.ndarray:
    """Correlation of "gene a above gene b" with type `code`, (n_genes, n_genes); NaN where it is constant."""
    inside, everywhere = np.zeros((len(genes),) * 2), np.zeros((len(genes),) * 2)
    for here, block in blocks(cells.x, ROWS):
        dense = block[:, genes].toarray()
        higher = dense[:, :, None] > dense[:, None, :]
        inside += higher[cells.labels[here] == code].sum(axis=0)
        everywhere += higher.sum(axis=0)
    n = np.array([np.count_nonzero(cells.labels == code), 0])
    n[1] = cells.n_obs - n[0]
    total = np.stack([inside, everywhere - inside]).reshape(2, -1)  # of 0 and 1, whose squares are the same
    return _correlations(Moments(n, total, total, total))[0].reshape(inside.shape)


def _greedy_pairs(score: np.ndarray, n_pairs: int) -> np.ndarray:
    """Pairs (row, column) of the largest positive scores, each gene in at most `MOST_USES`, (≤ n_pairs, 2) int."""
    uses, taken = np.zeros(len(score), dtype=int), []
    order = np.argsort(-np.nan_to_num(score, nan=-1), axis=None, kind="stable")
    for a, b in zip(*np.unravel_index(order, score.shape), strict=True):
        if not score[a, b] > 0 or len(taken) == n_pairs:
            break
        if uses[a] < MOST_USES and uses[b] < MOST_USES:
            uses[[a, b]] += 1
            taken.append((a, b))
    return np.array(taken, dtype=np.int64).reshape(-1, 2)


def _scrambled(higher: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` cells whose answers are permuted within each cell, then within each pair, (n, n_pairs) bool."""
    some = higher[rng.integers(len(higher), size=n)]
    return rng.permuted(rng.permuted(some, axis=1), axis=0)
