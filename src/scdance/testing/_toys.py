"""The toy objects of each task: to fit on, new ones, those with other labels, large ones, and those to be refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scdance._core.task import (
    ANNOTATE,
    CLUSTER,
    DECONVOLVE,
    EMBED,
    IMPUTE,
    INTEGRATE,
    JOINT_EMBED,
    MATCH_MODALITY,
    PREDICT_GENES,
    PREDICT_MODALITY,
    PREDICT_PERTURBATION,
    SPATIAL_DOMAIN,
    TASKS,
    TRANSFER_LABELS,
)
from scdance.datasets import toy_clusters, toy_domains, toy_mixtures, toy_pairs, toy_panel, toy_perturbed

from ._objects import taken

if TYPE_CHECKING:
    from anndata import AnnData

# 97 and 149 are prime: no net and no gene table has them as a dimension
N_OBS, N_NEW, N_VARS, N_GROUPS = 97, 23, 60, 3
N_REF = 149
N_LACKING, N_HIDDEN = 15, 5  # genes that a panel lacks, and that it has and are asked all the same
N_PROTEINS, UNPAIRED = 20, 0.1
LARGE_VARS, LARGE_DEPTH = 200, 300.0  # genes and counts of a cell where memory is measured
LABELS = "cell_type"
DEPTH = 1e4  # counts that a log-normalised cell is brought to


class Refusal(NamedTuple):
    """A call that must be refused before the fit.

    Attributes
    ----------
    how
        What is wrong with it.
    data, arguments
        What the tool is given.
    kind, said
        Class of the error, and words that its message must have.
    """

    how: str
    data: Any
    arguments: dict[str, Any]
    kind: type[Exception]
    said: tuple[str, ...]


class Toys:
    """Toy objects for a task on one AnnData; other tasks say what is different.

    Parameters
    ----------
    needs, uses
        Inputs of the method.
    """

    def __init__(self, needs: tuple[str, ...], uses: tuple[str, ...]):
        self.needs, self.words = needs, (*needs, *uses)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of every call: what the method reads beside the expression."""
        return {"batch_key": "batch"} if "batch" in self.words else {}

    @property
    def learning(self) -> dict[str, Any]:
        """Further arguments of a call that fits, as new objects."""
        return {}

    @property
    def categories(self) -> list[str] | None:
        """Names of the types that the method is taught; None: it finds groups, which have numbers."""
        return None

    @property
    def sizes(self) -> set[int]:
        """Numbers of cells that the method is fitted on."""
        return {N_OBS}

    @cached_property
    def _all(self) -> Any:
        return _clusters(N_OBS + N_NEW, N_VARS)

    @property
    def old(self) -> Any:
        """The cells to fit on, as a new object."""
        return taken(self._all, slice(N_OBS))

    @property
    def new(self) -> Any:
        """More cells of the same kinds, as a new object."""
        return taken(self._all, slice(N_OBS, None))

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        """`old` and `learning`, with all that the method has no right to see permuted or deleted."""
        adata = _uncrowded(self.old)
        _permute_labels(adata)
        del adata.varm["lfc"]
        if not self.arguments:
            del adata.obs["batch"]
        return adata, self.learning

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        """`n_obs` cells of 200 genes, and what a fit is given with them."""
        return _clusters(n_obs, LARGE_VARS, depth=LARGE_DEPTH), {}

    suffix = under = ""  # of the key under which results stand; of the names of what holds them

    def table(self, data: Any) -> AnnData:
        """The AnnData of an object that holds the expression."""
        return data

    def holder(self, data: Any) -> Any:
        """What holds the results of an object."""
        return data

    @property
    def logged(self) -> tuple[Any, dict[str, Any]]:
        """`old` and `learning`, log-normalised."""
        data = self.old
        _log(self.table(data))
        return data, self.learning

    def refusals(self) -> Iterator[Refusal]:
        """Calls that lack what the method needs."""
        data = self.old
        _empty(self.table(data))
        yield Refusal("without any matrix", data, {}, KeyError, ("layer=",))
        if "counts" in self.needs:
            yield Refusal("with log-normalised values", self.logged[0], {}, ValueError, ("counts",))


class Referenced(Toys):
    """Cells and a reference."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {}

    @property
    def learning(self) -> dict[str, Any]:
        return {"ref": self._both[1].copy()}

    @property
    def sizes(self) -> set[int]:
        return {N_OBS, N_REF}

    @cached_property
    def _both(self) -> tuple[AnnData, AnnData]:
        """The cells, old and new, and the reference."""
        raise NotImplementedError

    @property
    def _all(self) -> Any:  # type: ignore[override]
        return self._both[0]

    @property
    def logged(self) -> tuple[Any, dict[str, Any]]:
        data, learning = super().logged
        _log(learning["ref"])
        return data, learning

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        yield Refusal("without a reference", self.old, dict.fromkeys(self.learning), ValueError, ("ref=",))
        empty, other, logged = self.learning["ref"], self.learning["ref"], self.logged[1]["ref"]
        _empty(empty)
        yield Refusal("with a reference without any matrix", self.old, {"ref": empty}, KeyError, ("ref_layer=",))
        if "counts" in self.needs:
            yield Refusal("with a log-normalised reference", self.old, {"ref": logged}, ValueError, ("counts",))
        other.raw = None
        other.var_names = [f"other_{i}" for i in range(N_VARS)]
        said = (other.var_names[0], self.old.var_names[0])
        unnamed = {name: None for name in self.learning if name == "genes"}
        yield Refusal("with a reference of other genes", self.old, {"ref": other, **unnamed}, ValueError, said)


class Labelled(Referenced):
    """Cells and an annotated reference."""

    @property
    def learning(self) -> dict[str, Any]:
        return {**super().learning, "labels_key": LABELS}

    @property
    def categories(self) -> list[str] | None:
        return list(self._both[1].obs[LABELS].cat.categories)

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        yield Refusal("with another column", self.old, {"labels_key": "kind"}, KeyError, ("labels_key=", LABELS))
        if "ref.labels" in self.needs:
            yield Refusal("without labels_key=", self.old, {"labels_key": None}, ValueError, ("labels_key=",))


class Annotation(Labelled):
    """Cells to annotate, some of whose labels are in the object but none of the method's business."""

    @cached_property
    def _both(self) -> tuple[AnnData, AnnData]:
        every = _clusters(N_OBS + N_NEW + N_REF, N_VARS)
        return taken(every, slice(N_OBS + N_NEW)), taken(every, slice(N_OBS + N_NEW, None))

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        adata, learning = _uncrowded(self.old), self.learning
        _permute_labels(adata)
        del adata.varm["lfc"], adata.obs["batch"]
        ref = _uncrowded(learning["ref"])
        del ref.varm["lfc"]
        ref.obs = ref.obs[[LABELS]]  # its labels are what the method learns from
        return adata, learning

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        every = _clusters(2 * n_obs, LARGE_VARS, depth=LARGE_DEPTH)
        return taken(every, slice(n_obs)), {"ref": taken(every, slice(n_obs, None)), "labels_key": LABELS}


class Mixtures(Labelled):
    """Spots and a reference, for deconvolution."""

    @cached_property
    def _both(self) -> tuple[AnnData, AnnData]:
        spots, ref = _mixtures(N_OBS + N_NEW, N_VARS, N_REF + 1)
        order = np.random.default_rng(0).permutation(spots.n_obs)  # types lie in patches, and `new` shall have all
        return taken(spots, order), taken(ref, slice(N_REF))

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        spots, learning = _uncrowded(self.old), self.learning
        order = np.random.default_rng(1).permutation(N_OBS)
        spots.obsm["true_prop"] = spots.obsm["true_prop"].iloc[order].set_axis(spots.obs_names)
        spots.obs = spots.obs[[]]
        del spots.obsm["true_prop_rna"], spots.uns["simulation"]
        if "coords" not in self.words:
            del spots.obsm["spatial"]
        ref = _uncrowded(learning["ref"])
        ref.obs = ref.obs[[LABELS]]  # its labels are what the method learns from
        return spots, learning

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        spots, ref = _mixtures(n_obs, LARGE_VARS, n_obs, depth=LARGE_DEPTH)
        return spots, {"ref": ref, "labels_key": LABELS}

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        if "coords" in self.needs:
            nowhere = self.old
            del nowhere.obsm["spatial"]
            yield Refusal("without coordinates", nowhere, {}, KeyError, ("spatial_key=",))


class Panels(Referenced):
    """Cells of a panel, and a reference with more genes; some of the panel are asked, too, and so are to be hidden."""

    @property
    def learning(self) -> dict[str, Any]:
        return {**super().learning, "genes": [*self._hidden, *self._lacking]}

    @cached_property
    def _both(self) -> tuple[AnnData, AnnData]:
        panel, ref = _panel(N_REF, N_VARS, N_VARS - N_LACKING)
        return taken(panel, slice(N_OBS + N_NEW)), ref

    @property
    def _hidden(self) -> list[str]:
        return list(self._both[0].var_names[:N_HIDDEN])

    @property
    def _lacking(self) -> list[str]:
        panel, ref = self._both
        return list(ref.var_names[~ref.var_names.isin(panel.var_names)])

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        panel, learning = _uncrowded(self.old), self.learning
        x = panel.X.toarray()
        x[:, :N_HIDDEN] = np.random.default_rng(1).poisson(5, (N_OBS, N_HIDDEN))  # noise in their place
        panel.X = sp.csr_matrix(x)
        panel.obs = panel.obs[[]]
        if "coords" not in self.words:
            del panel.obsm["spatial"]
        ref = _uncrowded(learning["ref"])
        ref.obs = ref.obs[[]]
        return panel, learning

    @property
    def logged(self) -> tuple[Any, dict[str, Any]]:
        panel, learning = super().logged
        panel.uns["log1p"] = {}  # as scanpy says it; sums of cells do not tell, where some genes are not read
        return panel, learning

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        panel, ref = _panel(n_obs, LARGE_VARS, LARGE_VARS // 2, depth=10 * LARGE_DEPTH)
        return panel, {"ref": ref, "genes": None}


class Tissue(Toys):
    """Spots of a tissue, for spatial domains."""

    @cached_property
    def _all(self) -> Any:
        return _domains(N_OBS + N_NEW, N_VARS)

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        adata = _uncrowded(self.old)
        _permute_labels(adata)
        del adata.varm["lfc"], adata.obs["domain"]
        return adata, self.learning

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        return _domains(n_obs, LARGE_VARS, depth=LARGE_DEPTH), {}

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        if "coords" in self.needs:
            nowhere = self.old
            del nowhere.obsm["spatial"]
            yield Refusal("without coordinates", nowhere, {}, KeyError, ("spatial_key=",))


class Expressed(Toys):
    """Cells whose expression is estimated; for a method that looks at places, they lie somewhere."""

    @cached_property
    def _all(self) -> Any:
        return self._placed(super()._all)

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        data, learning = super().large(n_obs)
        return self._placed(data), learning

    def _placed(self, data: Any) -> Any:
        if "coords" in self.words:
            data.obsm["spatial"] = np.random.default_rng(0).uniform(0, np.sqrt(data.n_obs), (data.n_obs, 2))
        return data

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        if "coords" in self.needs:
            nowhere = self.old
            del nowhere.obsm["spatial"]
            yield Refusal("without coordinates", nowhere, {}, KeyError, ("spatial_key=",))


class Screens(Toys):
    """A screen of which two perturbations are asked for, one of them a pair that no cell shows in this order."""

    targets = ("gene_2+gene_1", "gene_3")

    @property
    def arguments(self) -> dict[str, Any]:
        return {"perturbation_key": "perturbation", "targets": list(self.targets)}

    @property
    def categories(self) -> list[str] | None:
        return list(self.targets)

    @cached_property
    def sizes(self) -> set[int]:  # type: ignore[override]
        return {N_OBS, int((~_is_asked(self.old)).sum())}

    @cached_property
    def _all(self) -> Any:
        adata = _screen(N_OBS + N_NEW, N_VARS)
        order = np.arange(adata.n_obs)
        control = np.flatnonzero(adata.obs["perturbation"] == "control")[-1]
        order[[N_OBS, control]] = control, N_OBS  # the first of the new cells can stand alone
        return taken(adata, order)

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        adata = _uncrowded(self.old)
        asked = _is_asked(adata)
        x = adata.X.toarray()
        x[asked] = np.random.default_rng(1).poisson(5, (int(asked.sum()), adata.n_vars))  # noise in their place
        adata.X = sp.csr_matrix(x)
        del adata.varm["lfc"]
        return adata, self.learning

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        return _screen(n_obs, LARGE_VARS, depth=LARGE_DEPTH), {}

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        yield Refusal("without targets", self.old, {"targets": None}, ValueError, ("targets=",))
        yield Refusal("with another name of the control", self.old, {"control": "ctrl"}, ValueError, ("control=",))


class Pairs(Toys):
    """Two modalities, for joint embedding."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {}

    @cached_property
    def sizes(self) -> set[int]:  # type: ignore[override]
        old = self.old
        return {N_OBS, *(each.n_obs for each in old.mod.values()), int(_paired(old).sum())}

    @cached_property
    def _all(self) -> Any:
        mdata = _pairs(N_OBS + N_NEW, N_VARS)
        paired = _paired(mdata)
        one = np.flatnonzero(~paired)  # first those without proteins, then those without RNA
        both = np.random.default_rng(0).permutation(np.flatnonzero(paired))
        old, new = [*both[N_NEW - 2 :], *one[1:-1]], [*both[: N_NEW - 2], one[0], one[-1]]
        return taken(mdata, [*np.random.default_rng(1).permutation(old), *new])

    @property
    def relabelled(self) -> tuple[Any, dict[str, Any]]:
        mdata = self.old
        for each in (mdata, *mdata.mod.values()):
            _permute_labels(each)
            _uncrowded(each)
        return mdata, {}

    def large(self, n_obs: int) -> tuple[Any, dict[str, Any]]:
        return _pairs(n_obs, LARGE_VARS), {}

    def table(self, data: Any) -> AnnData:
        return data.mod["rna"]

    def refusals(self) -> Iterator[Refusal]:
        yield from super().refusals()
        proteins, single = self.old, self.old
        _empty(proteins.mod["prot"])
        yield Refusal("without proteins", proteins, {}, KeyError, ("layer=", "prot"))
        del single.mod["prot"]
        yield Refusal("with one modality", single, {}, ValueError, ("rna",))


class Asked(Pairs):
    """Two modalities, of which one is asked for; batches of the source."""

    suffix, under = "_prot", "mod/rna/"

    @cached_property
    def _all(self) -> Any:
        mdata = _pairs(N_OBS + N_NEW + N_GROUPS, N_VARS)  # a few are left over: those without RNA are nobody's
        mdata = taken(mdata, mdata.obsm["rna"].astype(bool))
        order = np.random.default_rng(1).permutation(mdata.n_obs)[: N_OBS + N_NEW]
        return taken(mdata, order)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"source": "rna", "target": "prot"}

    def holder(self, data: Any) -> Any:
        return data.mod["rna"]


class Apart(Pairs):
    """Two modalities of which some cells are in one only, to be matched."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {"source": "rna", "target": "prot"}


TOYS: dict[str, type[Toys]] = {
    ANNOTATE.name: Annotation,
    CLUSTER.name: Toys,
    IMPUTE.name: Expressed,
    SPATIAL_DOMAIN.name: Tissue,
    DECONVOLVE.name: Mixtures,
    JOINT_EMBED.name: Pairs,
    PREDICT_MODALITY.name: Asked,
    MATCH_MODALITY.name: Apart,
    INTEGRATE.name: Toys,
    EMBED.name: Toys,
    TRANSFER_LABELS.name: Annotation,
    PREDICT_PERTURBATION.name: Screens,
    PREDICT_GENES.name: Panels,
}


# ---------------------------------------------------------------------- making them


def _clusters(n_obs: int, n_vars: int, **numbers: Any) -> AnnData:
    """Counts with planted clusters in two batches, among slots of other people."""
    adata = toy_clusters(n_obs, n_vars, k=N_GROUPS, n_de=n_vars // 4, batches=2, **numbers)
    return _recorded(_crowded(adata))


def _domains(n_obs: int, n_vars: int, **numbers: Any) -> AnnData:
    """Spots of planted layers, among slots of other people."""
    adata = toy_domains(n_obs, n_vars, N_GROUPS, n_de=n_vars // 4, lfc=1.5, **numbers)
    adata.obs[LABELS] = adata.obs["domain"]
    return _recorded(_crowded(adata))


def _mixtures(n_obs: int, n_vars: int, n_ref: int, **numbers: Any) -> tuple[AnnData, AnnData]:
    """Spots with planted shares and a reference, among slots of other people."""
    spots, ref = toy_mixtures(n_obs, n_vars, N_GROUPS, n_ref, **numbers)
    return _recorded(_crowded(spots)), _crowded(ref)


def _panel(n_obs: int, n_vars: int, n_panel: int, **numbers: Any) -> tuple[AnnData, AnnData]:
    """Cells of a panel and of a reference with more genes, among slots of other people."""
    panel, ref = toy_panel(n_obs, n_vars, n_panel, N_GROUPS, **numbers)
    return _recorded(_crowded(panel)), _crowded(ref)


def _screen(n_obs: int, n_vars: int, **numbers: Any) -> AnnData:
    """Cells of a screen with singles and pairs, among slots of other people."""
    return _recorded(_crowded(toy_perturbed(n_obs, n_vars, 4, 3, n_de=n_vars // 4, **numbers)))


def _is_asked(adata: AnnData) -> np.ndarray:
    """Which cells have a perturbation that the toy call asks for."""
    return adata.obs["perturbation"].isin(["gene_1+gene_2", "gene_3"]).to_numpy()


def _pairs(n_obs: int, n_vars: int) -> Any:
    """Cells of which most have RNA and proteins, among slots of other people."""
    mdata = toy_pairs(n_obs, n_vars, N_PROTEINS, N_GROUPS, unpaired=UNPAIRED)
    for each in mdata.mod.values():
        each.obs[LABELS] = mdata.obs[LABELS]
        _crowded(each)
    mdata.obs["truth"] = mdata.obs[LABELS]
    mdata.obsm["X_other"] = np.arange(mdata.n_obs, dtype=np.float32)[:, None]
    return _recorded(mdata)


def _paired(mdata: Any) -> np.ndarray:
    """Which cells have both modalities."""
    return np.all([mdata.obsm[name] for name in mdata.mod], axis=0)


def _crowded(adata: AnnData) -> AnnData:
    """The object, with slots of other people beside the counts."""
    # float32 is what methods compute in, so nothing is copied on the way and a careless write reaches the user
    adata.X = adata.X.astype(np.float32)
    adata.raw = adata
    if LABELS in adata.obs:
        adata.obs["truth"] = adata.obs[LABELS]
    adata.obsm["X_other"] = np.asarray(adata.X[:, :2].todense())
    adata.layers["other"] = adata.X * 2
    adata.uns["other"] = {"numbers": np.arange(3)}
    return adata


def _uncrowded(data: Any) -> Any:
    """The object, without the slots of other people."""
    for holder in (data.obs, data.obsm, data.uns, {} if data.layers is None else data.layers):  # None: a MuData
        for name in ("truth", "X_other", "other"):
            if name in holder:
                del holder[name]
    if data.raw is not None:
        data.raw = None
    return data


def _recorded(data: Any) -> Any:
    """The object, with results of other runs."""
    data.uns["scdance"] = {name: {"earlier": {"method": "theirs"}} for name in TASKS}
    return data


def _permute_labels(data: Any) -> None:
    order = np.random.default_rng(1).permutation(data.n_obs)
    data.obs[LABELS] = data.obs[LABELS].to_numpy()[order]


def _empty(adata: AnnData) -> None:
    """Take away every matrix."""
    adata.raw = None
    adata.X = None
    adata.layers.clear()


def _log(adata: AnnData) -> None:
    """Put log-normalised values in the place of the counts."""
    depth = np.asarray(adata.X.sum(axis=1))
    adata.X = sp.csr_matrix(adata.X.multiply(DEPTH / depth)).log1p().astype(np.float32)
