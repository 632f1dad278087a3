"""A data set as a task sees it: the object without its truth, what goes with it, and the truth apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import one_of
from scdance._core.task import TASKS
from scdance._settings import unpulled
from scdance.pp import Recipe, canonical, draw_by_sparsity, gene_activity, mask

from ._load import _loaded, info, load, names
from ._split_reference import split_reference
from ._toy_panel import toy_panel
from ._visium import simulate_visium

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


@dataclass
class Problem:
    """What a method is given, and what it is not.

    Attributes
    ----------
    data
        The object that the tool of the task takes, without labels and without the origin of the data.
    truth
        What is known of each row: a Series of labels, a DataFrame of shares, CSR counts of which some are hidden, or
        an AnnData with the target of the cells that are asked, with the cells of the perturbations that are asked, or
        with the counts of the genes that are asked.
    arguments
        Further arguments of the tool, such as ``ref`` and ``labels_key``.
    labels
        Types of the cells that teach, for methods that learn from them, where the truth is something else.
    beside
        What else is known of each row, for scores alone: known times on trajectories, one per column.
    """

    data: Any
    truth: pd.Series | pd.DataFrame | sp.csr_matrix | AnnData
    arguments: dict[str, Any] = field(default_factory=dict)
    labels: pd.Series | None = None
    beside: pd.DataFrame | None = None

    def partly_labelled(self, share: float, random_state: int) -> Problem:
        """The same with the labels of a `share` of the rows given, in ``obs["known"]``, and the truth of the others.

        Where the truth is no label, those of all cells that teach are given.
        """
        data = _copied(self.data)
        if self.labels is not None:
            source = data.mod[self.arguments["source"]]
            source.obs["known"] = self.labels.reindex(source.obs_names)
            return replace(self, data=data, arguments={**self.arguments, "labels_key": "known"}, labels=None)
        given = np.random.default_rng(random_state).random(len(self.truth)) < share
        data.obs["known"] = self.truth.where(given)
        arguments = {**self.arguments, "labels_key": "known"}
        return replace(self, data=data, truth=self.truth.where(~given), arguments=arguments)


def problem(task: str, name: str, random_state: int = 0) -> Problem:
    """A data set as the benchmark gives it to a method.

    Parameters
    ----------
    task
        Name of the task, such as ``"cluster"``.
    name
        Name of a data set that can score it, see :func:`names`.
    random_state
        Seed of what is drawn: the split into reference and query, which labels are given, or what is hidden.

    Returns
    -------
    The object without its truth, the truth, and what else the tool of the task is called with.

    Raises
    ------
    InputError
        If there is no such task or data set.

    Examples
    --------
    >>> import scdance as sd
    >>> given = sd.datasets.problem("cluster", "pbmc_demo")
    >>> given.data.obs.shape, given.truth.nunique()
    ((800, 0), 8)
    """
    one_of(name, names(one_of(task, TASKS, "task")), "name")
    entry = info(name)
    if "simulated" in entry:
        spots, ref = mixed(entry)
        truth = spots.obsm["true_prop"]
        del spots.obsm["true_prop"], spots.obsm["true_prop_rna"]
        spots.obs = spots.obs[[]]
        spots.uns.clear()
        if task == "spatial_domain":
            return Problem(spots, truth.idxmax(axis=1).astype("category"))
        return Problem(spots, truth, {"ref": ref, "labels_key": entry["labels_key"]})
    if "panel" in entry:
        panel, ref = _panel_and_ref(name, entry, random_state)
        return _held_out(panel, ref, entry["panel"], entry.get("library_key"), random_state)
    data = load(name)
    if "split" in entry and task == "annotate":
        ref, data = _split(data, entry["split"], random_state)
        given = {"ref": _bare(ref, entry["labels_key"]), "labels_key": entry["labels_key"]}
        truth = data.obs[entry["labels_key"]].copy()
        return Problem(_bare(data), truth, given)
    if "hidden" in entry and task == "impute":
        return _hidden(data, entry["hidden"], entry.get("library_key"), random_state)
    if "mixed" in entry:
        return _mixed_regions(data, entry["mixed"])
    if "apart" in entry:
        return _apart(data, entry["apart"], random_state)
    if "asked" in entry:
        return _asked(data, entry["asked"], entry["labels_key"], random_state)
    if "screen" in entry:
        return _screen(data, entry["screen"], entry["labels_key"], random_state)
    if "transfer" in entry:
        return _transferred(data, entry["transfer"], entry["labels_key"], random_state)
    truth = data.obs[entry["labels_key"]].copy()
    if "modalities" in entry:
        return _paired(data, truth, entry.get("pseudotime", []))
    given = {name: entry[name] for name in ("library_key",) if name in entry}
    if task == "integrate":
        given["batch_key"] = entry["batch_key"]
    return Problem(_bare(data, *given.values()), truth, given)


def _paired(data: MuData, truth: pd.Series, times: list[str]) -> Problem:
    """Two modalities of the same cells, with their batches where there are any; known times stand apart."""
    beside = data.obs[times].copy() if times else None
    kept = [name for name in ("batch",) if name in data.obs]
    for each in data.mod.values():
        _bare(each, *kept)
    return Problem(_bare(data), truth, {f"{name}_key": name for name in kept}, beside=beside)


UNITS = {"thinning": "counts", "entries": "log1p_250"}  # in which what a protocol hides is judged; else "log1p"


def _hidden(data: AnnData, how: dict[str, Any], library_key: str | None, random_state: int) -> Problem:
    """Counts of which some are hidden, and all of them; places and slices of the cells, where they are known."""
    import anndata as ad

    counts = canonical(data.X)
    if "n_top_genes" in how:
        chosen = Recipe(select_genes={"n_top": how["n_top_genes"]})
        depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        columns = chosen.fit(counts, depth, data.var_names.to_numpy()).columns
        data, counts = data[:, columns], canonical(counts[:, columns])
    kept = mask(counts, how["protocol"], how["rate"], np.random.default_rng([random_state, 3]))
    given = {} if library_key is None else {"library_key": library_key}
    bare = ad.AnnData(kept, obs=data.obs[[*given.values()]], var=data.var[[]])
    if "spatial" in data.obsm:
        bare.obsm["spatial"] = data.obsm["spatial"]
    return Problem(bare, counts, {"output": UNITS.get(how["protocol"], "log1p"), "policy": "replace", **given})


def _mixed_regions(data: AnnData, how: dict[str, Any]) -> Problem:
    """Mixtures of one plate, and the pure regions of the others with their types; all have one upper quartile."""
    import anndata as ad

    truth, counts = data.obsm[how["truth"]], data.X.toarray().astype(np.float64)
    quartile = np.quantile(counts, 0.75, axis=1, keepdims=True)
    scaled = counts * (quartile.mean() / quartile)
    asked, pure = data.obs_names.str.startswith(how["plate"]), truth.to_numpy() == 1

    def regions(rows: np.ndarray) -> AnnData:
        return ad.AnnData(canonical(sp.csr_matrix(scaled[rows])), data.obs[[]][rows], data.var[[]])

    rows, known = asked & ~pure.any(axis=1), ~asked & pure.any(axis=1)
    ref = regions(known)
    ref.obs["cell_type"] = truth.columns.to_numpy()[pure[known].argmax(axis=1)].astype(str)
    return Problem(regions(rows), truth[rows], {"ref": ref, "labels_key": "cell_type"})


def _asked(data: MuData, how: dict[str, Any], labels_key: str, random_state: int) -> Problem:
    """Two modalities, the target of the cells that teach only; and the target of the others."""
    rng = np.random.default_rng([random_state, 5])
    source, target = data.mod[how["source"]], data.mod[how["target"]]
    asked = _drawn(source, how, rng)
    if "n_features" in how:  # as many as the competition asked for, whatever the seed
        open_ = np.flatnonzero(np.asarray((target.X > 0).sum(axis=0)).ravel())
        target = target[:, np.sort(np.random.default_rng(0).permutation(open_)[: how["n_features"]])]
    kept = [name for name in ("batch",) if name in source.obs]
    labels = source.obs[labels_key][~asked]
    return Problem(
        _joined({how["source"]: _without(source, kept), how["target"]: _without(target[~asked], kept)}),
        _without(target[asked], []),
        {"source": how["source"], "target": how["target"], **({"batch_key": "batch"} if kept else {})},
        labels,
    )


def _apart(data: MuData, how: dict[str, Any], random_state: int) -> Problem:
    """Two modalities, in which some cells go by different names; which is which."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng([random_state, 6])
    source, target = data.mod[how["source"]], data.mod[how["target"]]
    asked = _drawn(source, how, rng)
    known = source.obs_names[asked]
    kept = [name for name in ("batch",) if name in source.obs]
    # in an order of their own, under names that say nothing
    order = rng.permutation(int(asked.sum()))
    new = pd.Series([f"query_{i}" for i in range(len(order))], index=known[order])
    rest = target[~target.obs_names.isin(known)]
    others = _with_batch(target[new.index], source, kept)
    others.obs_names = new.to_numpy()
    joined = ad.concat([_with_batch(rest, source, kept), others])
    return Problem(
        _joined({how["source"]: _without(source, kept), how["target"]: joined}),
        new.reindex(known).astype(str),
        {"source": how["source"], "target": how["target"], **({"batch_key": "batch"} if kept else {})},
    )


def _transferred(data: Any, how: dict[str, Any], labels_key: str, random_state: int) -> Problem:
    """A reference of which some cells keep their labels, and other cells of another layer or protocol; their types."""
    rng, labels = np.random.default_rng([random_state, 7]), data.obs[labels_key]
    if "key" in how:
        ref, cells = (data[data.obs[how["key"]].isin(how[role]).to_numpy()] for role in ("ref", "cells"))
    else:
        half = rng.permutation(data.n_obs) < data.n_obs // 2
        ref = data.mod[how["ref"]][data.obs_names[half]]
        cells = gene_activity(data.mod[how["cells"]][data.obs_names[~half]], how["link"])
    known = labels[ref.obs_names]
    bare = _without(ref, [])
    bare.obs[labels_key] = known.where(_labelled(known, how["share"], rng))
    truth = labels[cells.obs_names].cat.remove_unused_categories()
    return Problem(_without(cells, []), truth, {"ref": bare, "labels_key": labels_key})


def _screen(data: AnnData, how: dict[str, Any], key: str, random_state: int) -> Problem:
    """A screen without the cells of some perturbations, and these cells."""
    sizes = data.obs[key].value_counts()
    large = sorted(set(sizes.index[sizes >= how["least"]]) - {how["control"]})
    order = np.random.default_rng([random_state, 8]).permutation(large)
    targets = sorted(order[: round(how["share"] * len(large))].tolist())
    asked = data.obs[key].isin(targets).to_numpy()
    given = {"perturbation_key": key, "control": how["control"], "targets": targets}
    return Problem(_without(data[~asked], [key]), _without(data[asked], [key]), given)


def _panel_and_ref(name: str, entry: dict[str, Any], random_state: int) -> tuple[AnnData, AnnData]:
    """A panel and its reference: another data set, planted with it, or the other half of the cells with all genes."""
    how = entry["panel"]
    if "toy" in entry:
        return toy_panel(**entry["toy"])
    data = load(name)
    if "ref" in how:
        return data, load(how["ref"]).mod[how["modality"]]
    rng, whole = np.random.default_rng([random_state, 9]), data.mod[how["modality"]]
    half = rng.permutation(whole.n_obs) < whole.n_obs // 2
    return whole[half], whole[~half]


def _held_out(panel: AnnData, ref: AnnData, how: dict[str, Any], library_key: str | None, random_state: int) -> Problem:
    """A panel without some of the genes that the reference has, too, and these genes of it."""
    rng = np.random.default_rng([random_state, 10])
    shared = panel.var_names[panel.var_names.isin(ref.var_names)]
    drawn = shared[draw_by_sparsity(panel[:, shared].X, how["n_per_bin"], rng, share=how["share"])]
    others = panel.var_names[~panel.var_names.isin(drawn)]
    if "n_genes" in how:  # of which the panel consists, without those that are asked
        others = others[np.sort(rng.permutation(len(others))[: how["n_genes"]])]
    kept = [] if library_key is None else [library_key]
    data = _without(panel[:, others], kept)
    if "spatial" in panel.obsm:
        data.obsm["spatial"] = panel.obsm["spatial"].copy()
    given = {"ref": _without(ref, []), "genes": drawn.tolist(), **({"library_key": library_key} if kept else {})}
    return Problem(data, _without(panel[:, drawn], []), given)


def _labelled(labels: pd.Series, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which cells keep their label: a share at random, and one of each type that got none; more hold those of fewer."""
    order = rng.permutation(len(labels))
    kept = np.zeros(len(labels), dtype=bool)
    kept[order[: round(share * len(labels))]] = True
    first_of_type = ~labels.iloc[order].duplicated().to_numpy()
    kept[order[first_of_type & ~labels.iloc[order].isin(labels[kept]).to_numpy()]] = True
    return kept


def _drawn(source: AnnData, how: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Which cells are asked: a share at random, some whole batches, or those that a column does not let teach."""
    if "share" in how:
        return rng.permutation(source.n_obs) < round(how["share"] * source.n_obs)  # type: ignore[no-any-return]
    if "batches" in how:
        batches = sorted(source.obs["batch"].astype(str).unique())
        return source.obs["batch"].astype(str).isin(rng.permutation(batches)[: how["batches"]]).to_numpy()  # type: ignore[no-any-return]
    return ~source.obs[how["teach"]].to_numpy(dtype=bool)  # type: ignore[no-any-return]


def _with_batch(target: AnnData, source: AnnData, kept: list[str]) -> AnnData:
    """Counts and names of some cells of the target, with these columns of the source."""
    out = _without(target, [])
    for name in kept:
        out.obs[name] = source.obs[name].reindex(out.obs_names)
    return out


def _without(data: AnnData, columns: list[str]) -> AnnData:
    """Counts, names and these columns of `obs` only."""
    import anndata as ad

    return ad.AnnData(data.X.copy(), obs=data.obs[columns].copy(), var=data.var[[]].copy())


def _joined(modalities: dict[str, AnnData]) -> MuData:
    import mudata

    with unpulled():
        return mudata.MuData(modalities)


def _copied(data: Any) -> Any:
    with unpulled():
        return data.copy()


def _split(data: AnnData, how: dict[str, Any], random_state: int) -> tuple[AnnData, AnnData]:
    """Reference and query: at random, or by the values of a column."""
    for column, values in how.get("only", {}).items():
        data = data[data.obs[column].isin(values)]
    if "share" in how:
        order = np.random.default_rng(random_state).permutation(data.n_obs)
        n = round(how["share"] * data.n_obs)
        return data[np.sort(order[:n])].copy(), data[np.sort(order[n:])].copy()
    inside = data.obs[how["key"]].isin(how["ref"]).to_numpy()
    return data[inside].copy(), data[~inside].copy()


def _bare(data: AnnData, *columns: str) -> AnnData:
    """The object with these columns of `obs` only, and nothing in `uns`."""
    data.obs = data.obs[list(columns)]
    data.uns.clear()
    return data


def mixed(entry: dict[str, Any]) -> tuple[AnnData, AnnData]:
    """Spots of a simulated data set, and the cells that took no part in them, as their reference."""
    mixing, ref = split_reference(_loaded("", entry), random_state=entry["simulated"]["random_state"])
    spots = simulate_visium(mixing, entry["labels_key"], **entry["simulated"])
    spots.uns["source"] = {fact: entry[fact] for fact in ("data_source", "data_licence", "via")}
    return spots, ref
