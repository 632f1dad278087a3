"""Scores that are made of others: the two ways to rank joint spaces by six scores."""

from __future__ import annotations

from ._metric import metric
from ._proportions import _mean_of_defined

BIOLOGY = 0.6  # weight of what is kept of the biology; the rest is that of how batches are mixed


@metric(higher_is_better=True, range=(0.0, 1.0))
def mean_of_six(
    nmi_cluster_label: float,
    asw: float,
    cell_cycle_conservation: float,
    trajectory_conservation: float,
    batch_asw: float,
    graph_connectivity: float,
) -> float:
    """Mean of the six scores by which the competition of 2021 ranked joint spaces.

    Four say what is kept of the biology and two how batches are mixed [Lance2022]_.

    Parameters
    ----------
    nmi_cluster_label, asw, cell_cycle_conservation, trajectory_conservation, batch_asw, graph_connectivity
        Values of these metrics. Those that are NaN, for want of batches, a trajectory or genes of the cell cycle, are
        left out, so that methods are compared on the same cells only.

    Returns
    -------
    Score, 0 to 1; NaN where none is defined.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.mean_of_six(0.5, 0.5, 0.5, float("nan"), 1.0, 1.0)
    0.7
    """
    biology = (nmi_cluster_label, asw, cell_cycle_conservation, trajectory_conservation)
    return _mean_of_defined((*biology, batch_asw, graph_connectivity))


@metric(higher_is_better=True, range=(0.0, 1.0))
def bio_and_batch(
    nmi_cluster_label: float,
    asw: float,
    cell_cycle_conservation: float,
    trajectory_conservation: float,
    batch_asw: float,
    graph_connectivity: float,
) -> float:
    """0.6 of the mean of the four scores of biology and 0.4 of the mean of the two of batches.

    The six are those of :func:`mean_of_six`.

    Parameters
    ----------
    nmi_cluster_label, asw, cell_cycle_conservation, trajectory_conservation, batch_asw, graph_connectivity
        Values of these metrics: four of biology and two of batches. Those that are NaN are left out of their mean.

    Returns
    -------
    Score, 0 to 1; NaN where all of biology or all of batches are, since the one does not stand for the other.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.bio_and_batch(0.5, 0.5, 0.5, float("nan"), 1.0, 1.0), 6)
    0.7
    """
    biology = _mean_of_defined((nmi_cluster_label, asw, cell_cycle_conservation, trajectory_conservation))
    batches = _mean_of_defined((batch_asw, graph_connectivity))
    return BIOLOGY * biology + (1 - BIOLOGY) * batches
