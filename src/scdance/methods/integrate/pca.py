"""Principal components of all batches together: the floor of integration."""

from __future__ import annotations

from ._decomposed import Decomposed


class PCA(Decomposed):
    """Principal components of the cells of all batches, which part wherever expression does [Luecken2022]_.

    The genes that vary within the batches are decomposed as they are, or each brought to the same scale first, over
    all cells or within each batch.

    When to use
    -----------
    As the floor of every table, and first: where batches hardly part, nothing needs to be integrated. With
    ``scale="batch"`` where all batches hold the same types in the same shares.

    When not
    --------
    Batches that part, in any other case. ``scale="batch"`` pulls a type that one batch lacks onto others.

    Differs from the paper
    ----------------------
    The benchmark runs it on the genes of each method; here they are always chosen within the batches.
    """

    cite = "Luecken2022"
    control = True
