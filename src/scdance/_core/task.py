"""What each task reads, gives and is scored by: the table of contents of scdance."""

from __future__ import annotations

from dataclasses import dataclass, field

from scdance.pp import Recipe

FRAMES = ("shares", "frame")  # kinds of slot that have one column per category
BY_GENE = ("genes", "flags", "profiles")  # kinds of slot that have one value, or a row of values, per gene


@dataclass(frozen=True)
class Slot:
    """Where one part of a result goes.

    Attributes
    ----------
    where
        Attribute of the object: obs, obsm, var, varm, layers.
    name
        Name in there, with ``{key}`` for ``key_added`` or the name of the method.
    text
        What it holds: shape, type, unit, range.
    kind
        How it is stored: "category" (codes and their names), "text" (names, stored as categories), "sets" (which of
        the names, 0 or 1 each; stored as text, with "|" between them), "flags" (yes or no per gene, bool), and as
        float32 "shares" (one column per name, rows that sum to 1), "frame" (one column per name, not negative),
        "links" (CSR between the cells, rows that sum to 1 or are empty),
        "matrix", "vector" (in [0, 1]), "genes" (one number per gene), "profiles" (genes in rows, one column per
        perturbation that was asked for), "expression" (one column per modelled gene; the slot has all genes of the
        object).
    on
        What receives it: "adata", "mdata" for the MuData as a whole, or "mdata[source]" for one of its modalities.
    empty
        What a cell without counts gets, for which there is no evidence: a number, "even" for equal shares, or "mean"
        for that of the other cells. With NaN a method may leave out any cell. What a gene gets that was not modelled;
        as "expression", with NaN it keeps the values of the input.
    beyond
        A further category that a method may give, with the code after the last.
    """

    where: str
    name: str
    text: str
    kind: str
    on: str = "adata"
    empty: float | str = 0.0
    beyond: str = ""


@dataclass(frozen=True)
class Task:
    """A task: its roles, the parts of its result, its scores and its default method.

    Attributes
    ----------
    roles
        What `predict` gets, the last one receiving the result; `fit` gets the same unless the method says less.
    data
        Kinds of object that it takes.
    truth
        Attribute of the object that holds what is known, for scores and the benchmark; "mod" for a modality, "cells"
        where measured cells and "genes" where measured genes are compared with, which are no part of a slot.
    suffix
        What follows the key of a call in the names of its slots and record, with ``{target}`` for that modality.
    units
        How the target is normalised, by the kind of modality: the unit of the answers.
    """

    name: str
    text: str
    roles: tuple[str, ...]
    gives: dict[str, Slot]
    optional: tuple[str, ...]
    metrics: tuple[str, ...]
    default: str
    data: tuple[str, ...] = ("AnnData",)
    truth: str = "obs"
    suffix: str = ""
    units: dict[str, Recipe] = field(default_factory=dict)

    def place(self, part: str, key: str = "<key>") -> str:
        """Where a part of a result stands, as a user types it."""
        slot = self.gives[part]
        return f"{slot.on}.{slot.where}[{slot.name.format(key=self.run_key(key))!r}]"

    def run_key(self, key: str = "<key>", target: str = "<target>") -> str:
        """The key of a run, with what follows that of the call."""
        return key + self.suffix.format(target=target)

    @property
    def owner(self) -> str:
        """What the run record stands in."""
        return self.on if self.suffix else "mdata" if self.data == ("MuData",) else "adata"

    @property
    def on(self) -> str:
        """What receives the results."""
        return next(iter(self.gives.values())).on

    @property
    def truth_is_apart(self) -> bool:
        """Whether what is known is an object of its own, beside the one that holds the result."""
        return self.truth in ("mod", "cells", "genes")

    @property
    def asks_genes(self) -> bool:
        """Whether genes are asked that the cells lack, or that no method may read of them."""
        return self.truth == "genes"

    @property
    def gives_expression(self) -> bool:
        """Whether a result has values for cells and genes."""
        return any(slot.kind == "expression" for slot in self.gives.values())


CLUSTER = Task(
    "cluster",
    text="Group cells by expression, without labels.",
    roles=("cells",),
    gives={
        "labels": Slot(
            "obs",
            "{key}",
            'cluster of each cell, "0" is the largest; cells without counts have none',
            "category",
        ),
        "embedding": Slot("obsm", "X_{key}", "latent space, (n_obs, n_latent) float32", "matrix"),
        "proba": Slot(
            "obsm",
            "{key}_proba",
            "probability of each cluster, (n_obs, n_clusters) float32, rows sum to 1",
            "shares",
            empty="even",
        ),
        "score": Slot("obs", "{key}_score", "how sure the assignment is, (n_obs,) float32 in [0, 1]", "vector"),
    },
    optional=("embedding", "proba", "score"),
    metrics=("ari", "nmi"),
    default="graphsc",
)

DECONVOLVE = Task(
    "deconvolve",
    text="Estimate which cell types each spot is made of, from a reference of annotated cells or a table of profiles.",
    roles=("ref", "cells"),
    gives={
        "proportions": Slot(
            "obsm",
            "{key}",
            "share of each type, (n_obs, n_types) float32, rows sum to 1; spots without counts have NaN",
            "shares",
            empty=float("nan"),
        ),
        "abundance": Slot(
            "obsm",
            "{key}_abundance",
            "amount of each type before it is made a share, (n_obs, n_types) float32, in a unit of the method",
            "frame",
        ),
        "sd": Slot(
            "obsm",
            "{key}_sd",
            "standard deviation of each share, (n_obs, n_types) float32; spots without counts have NaN",
            "frame",
            empty=float("nan"),
        ),
        "se": Slot(
            "obsm",
            "{key}_se",
            "standard error of each abundance, (n_obs, n_types) float32; spots without counts have NaN",
            "frame",
            empty=float("nan"),
        ),
        "p": Slot(
            "obsm",
            "{key}_p",
            "p-value of each abundance against there being none, (n_obs, n_types) float32, not corrected for the "
            "number of tests; spots without counts have NaN",
            "frame",
            empty=float("nan"),
        ),
        "top": Slot(
            "obs",
            "{key}_top",
            "type with the largest share; spots without counts have none",
            "category",
            empty=float("nan"),
        ),
    },
    optional=("abundance", "sd", "se", "p"),
    metrics=("rmse", "pearson", "jsd", "auprc"),
    default="card",
    data=("AnnData", "SpatialData"),
    truth="obsm",
)

SPATIAL_DOMAIN = Task(
    "spatial_domain",
    text="Divide a tissue into regions, by expression and by place.",
    roles=("cells",),
    gives={
        "labels": Slot(
            "obs", "{key}", 'domain of each spot, "0" is the largest; spots without counts have none', "category"
        ),
        "refined": Slot(
            "obs",
            "{key}_refined",
            "the same after most of a spot's neighbours have outvoted it; spots without counts have none",
            "category",
        ),
        "pieces": Slot(
            "obs",
            "{key}_piece",
            'connected piece of the domain, "3_0" being the largest of domain "3"; spots without counts have none',
            "text",
        ),
        "embedding": Slot("obsm", "X_{key}", "latent space, (n_obs, n_latent) float32", "matrix"),
        "proba": Slot(
            "obsm",
            "{key}_proba",
            "probability of each domain, (n_obs, n_domains) float32, rows sum to 1",
            "shares",
            empty="even",
        ),
        "score": Slot("obs", "{key}_score", "how sure the domain is, (n_obs,) float32 in [0, 1]", "vector"),
    },
    optional=("refined", "pieces", "embedding", "proba", "score"),
    metrics=("ari", "nmi", "spatial_coherence"),
    default="smoothed_pca",
    data=("AnnData", "SpatialData"),
)

JOINT_EMBED = Task(
    "joint_embed",
    text="Put cells whose RNA was measured together with proteins or open chromatin into one space.",
    roles=("pair",),
    gives={
        "embedding": Slot(
            "obsm",
            "X_{key}",
            "joint space, (n_obs, n_latent) float32; a cell that no modality has is at 0",
            "matrix",
            on="mdata",
        ),
        "measured": Slot(
            "obs",
            "{key}_measured",
            'what the place of the cell comes from: "both", or the one modality that it has; none for others',
            "text",
            on="mdata",
        ),
    },
    optional=(),
    metrics=(
        "kmeans_ari",
        "kmeans_nmi",
        "asw",
        "nmi_cluster_label",
        "graph_connectivity",
        "batch_asw",
        "cell_cycle_conservation",
        "trajectory_conservation",
        "mean_of_six",
        "bio_and_batch",
    ),
    default="svd_concat",
    data=("MuData",),
)

MATCH_MODALITY = Task(
    "match_modality",
    text="Find for cells of one modality the same cells, or the likest, in another that was measured apart.",
    roles=("pair",),
    gives={
        "matching": Slot(
            "obsp",
            "{key}_matching",
            "probability that a cell of the source (row) is one of the target (column), (n_obs, n_obs) CSR float32, "
            "rows sum to 1; cells of the target only have empty rows, those of both have themselves",
            "links",
            on="mdata",
        ),
        "match": Slot(
            "obs", "{key}_match", "name of the cell it is matched with, one-to-one; none where none is left", "text",
            on="mdata",
        ),
        "score": Slot(
            "obs", "{key}_match_score", "probability of that cell, (n_obs,) float32 in [0, 1]; NaN where there is none",
            "vector", on="mdata", empty=float("nan"),
        ),
        "entropy": Slot(
            "obs",
            "{key}_match_entropy",
            "how undecided the probabilities are, (n_obs,) float32: 0 for one partner, 1 for all alike; NaN for others",
            "vector",
            on="mdata",
            empty=float("nan"),
        ),
        "mutual": Slot(
            "obs",
            "{key}_match_mutual",
            "yes where it and its likeliest partner are each other's nearest, else no; none for others",
            "text",
            on="mdata",
        ),
        "embedding": Slot(
            "obsm",
            "X_{key}",
            "common space, (n_obs, n_latent) float32, rows of length 1; a cell of both is where its source puts it",
            "matrix",
            on="mdata",
        ),
    },
    optional=(),
    metrics=("match_probability", "match_top5", "match_accuracy", "foscttm"),
    default="novel",
    data=("MuData",),
)  # fmt: skip

ANNOTATE = Task(
    "annotate",
    text="Give cells the types of an annotated reference, and say which cells are like none of them.",
    roles=("ref", "cells"),
    gives={
        "labels": Slot(
            "obs",
            "{key}",
            'type of each cell, one of the reference\'s or "unknown"; cells without counts have none',
            "category",
            beyond="unknown",
        ),
        "proba": Slot(
            "obsm",
            "{key}_proba",
            "probability of each type, calibrated, (n_obs, n_types) float32, rows sum to 1",
            "shares",
            empty="even",
        ),
        "score": Slot("obs", "{key}_score", "probability of the likeliest type, (n_obs,) float32 in [0, 1]", "vector"),
        "novelty": Slot(
            "obs",
            "{key}_novelty",
            "how unlike the reference the cell is, (n_obs,) float32 in [0, 1]: above ½ for 1 % of the reference's own "
            "cells",
            "vector",
        ),
        "sets": Slot(
            "obs",
            "{key}_set",
            'types that cannot be ruled out, with "|" between them, "" where all can: a conformal set',
            "sets",
        ),
        "disagreement": Slot(
            "obs",
            "{key}_disagreement",
            "share of several annotations that say another type, (n_obs,) float32 in [0, 1]",
            "vector",
        ),
    },
    optional=("novelty", "sets", "disagreement"),
    metrics=("accuracy", "macro_f1", "balanced_accuracy", "ece", "brier"),
    default="svm",
)

TRANSFER_LABELS = Task(
    "transfer_labels",
    text="Give cells of one omics layer the types of partly labelled cells of another, such as chromatin those of RNA.",
    roles=("ref", "cells"),
    gives={
        "labels": Slot(
            "obs",
            "{key}",
            'type of each cell, one of the reference\'s or "unknown"; cells without counts have none',
            "category",
            beyond="unknown",
        ),
        "proba": Slot(
            "obsm",
            "{key}_proba",
            "probability of each type, (n_obs, n_types) float32, rows sum to 1",
            "shares",
            empty="even",
        ),
        "score": Slot("obs", "{key}_score", "probability of the likeliest type, (n_obs,) float32 in [0, 1]", "vector"),
        "embedding": Slot(
            "obsm",
            "X_{key}",
            "space that the cells share with the reference, (n_obs, n_latent) float32",
            "matrix",
        ),
    },
    optional=(),
    metrics=("accuracy", "macro_f1", "balanced_accuracy", "ece", "a_distance_to_ref"),
    default="ot_transfer",
)

INTEGRATE = Task(
    "integrate",
    text="Put cells of several batches into one space in which types lie together and batches do not part.",
    roles=("cells",),
    gives={
        "embedding": Slot("obsm", "X_{key}", "space without the batches, (n_obs, n_latent) float32", "matrix"),
        "expression": Slot(
            "layers",
            "{key}",
            "log-normalised expression as of a common batch, (n_obs, n_vars) float32, dense, or CSR where less than "
            "half of the genes were modelled; other genes and cells without counts have their observed values",
            "expression",
            empty=float("nan"),
        ),
        "modelled": Slot(
            "var", "{key}_corrected", "whether the expression of the gene was corrected, (n_vars,) bool", "flags"
        ),
    },
    optional=("expression", "modelled"),
    metrics=(
        "subsampled_ari",
        "batch_ari",
        "ilisi",
        "clisi",
        "kbet",
        "batch_asw",
        "graph_connectivity",
        "a_distance",
    ),
    default="harmony",
)

EMBED = Task(
    "embed",
    text="Place cells in a latent space, by a model that was trained before on other cells or by one for these alone.",
    roles=("cells",),
    gives={
        "embedding": Slot("obsm", "X_{key}", "latent space, (n_obs, n_latent) float32", "matrix"),
    },
    optional=(),
    metrics=("kmeans_ari", "kmeans_nmi", "asw", "nmi_cluster_label"),
    default="pca",
    data=("AnnData", "SpatialData"),
)

IMPUTE = Task(
    "impute",
    text="Estimate the expression behind the counts, with what cells and genes tell of each other.",
    roles=("cells",),
    gives={
        "expression": Slot(
            "layers",
            "{key}",
            "expected expression in the unit of `output`, (n_obs, n_vars) float32, dense, or CSR where less than half "
            "of the genes were modelled; other genes and cells without counts have their observed values",
            "expression",
            empty=float("nan"),
        ),
        "modelled": Slot(
            "var", "{key}_imputed", "whether the expression of the gene was estimated, (n_vars,) bool", "flags"
        ),
        "sd": Slot(
            "layers",
            "{key}_sd",
            "standard deviation of what the expression may be, given the counts, in the same unit, (n_obs, n_vars) "
            "float32; 0 where nothing was estimated",
            "expression",
        ),
        "embedding": Slot("obsm", "X_{key}", "latent space, (n_obs, n_latent) float32", "matrix"),
        "clusters": Slot("obs", "{key}_cluster", "cluster of each cell that the method worked with", "category"),
        "dispersion": Slot(
            "var",
            "{key}_dispersion",
            "θ of the gene: counts of mean μ have the variance μ + μ²/θ; NaN where nothing was estimated",
            "genes",
            empty=float("nan"),
        ),
        "imputability": Slot(
            "var",
            "{key}_imputability",
            "correlation of predicted and held-out expression over the cells; NaN where it could not be judged",
            "genes",
            empty=float("nan"),
        ),
    },
    optional=("sd", "embedding", "clusters", "dispersion", "imputability"),
    metrics=(
        "poisson_gain",
        "poisson_loss",
        "rmse_nonzero",
        "mae_nonzero",
        "pearson_nonzero",
        "cosine_nonzero",
        "rmse_zero",
        "rmse_both",
        "rmse_known_nonzero",
        "rmse_masked",
        "pearson_masked",
        "cosine_masked",
    ),
    default="dca",
    data=("AnnData", "SpatialData"),
    truth="layers",
)

PREDICT_MODALITY = Task(
    "predict_modality",
    text="Predict one modality of cells from another that was measured, learnt from cells that have both.",
    roles=("pair",),
    gives={
        "prediction": Slot(
            "obsm",
            "{key}",
            "predicted target in its unit, (n_obs, n_features) float32, the names of the features standing in the "
            "run record; a cell without counts has the mean of the others",
            "matrix",
            on="mdata[source]",
            empty="mean",
        ),
        "sd": Slot(
            "obsm",
            "{key}_sd",
            "standard deviation of the answers of an ensemble, (n_obs, n_features) float32",
            "matrix",
            on="mdata[source]",
            empty="mean",
        ),
    },
    optional=("sd",),
    metrics=("skill", "modality_rmse", "modality_mae", "modality_pearson"),
    default="lsl_ensemble",
    data=("MuData",),
    truth="mod",
    suffix="_{target}",
    units={
        "rna": Recipe(normalize_total={"target": 1e4}, log1p={}),
        "prot": Recipe(clr={}),
        "atac": Recipe(binarize={}),
    },
)

PREDICT_PERTURBATION = Task(
    "predict_perturbation",
    text="Predict what a perturbation does to expression, learnt from other perturbations of a screen.",
    roles=("cells",),
    gives={
        "profile": Slot(
            "varm",
            "{key}",
            "mean log-normalised expression of cells under each perturbation, DataFrame (n_vars, n_targets) float32; "
            "NaN for genes that were not modelled",
            "profiles",
            empty=float("nan"),
        ),
        "change": Slot(
            "varm",
            "{key}_change",
            "what of it is a change from the mean of the control cells, DataFrame (n_vars, n_targets) float32; NaN for "
            "genes that were not modelled",
            "profiles",
            empty=float("nan"),
        ),
    },
    optional=(),
    metrics=("perturbation_skill", "perturbation_rmse", "perturbation_rmse_top", "change_pearson"),
    default="mean_perturbed",
    truth="cells",
)

PREDICT_GENES = Task(
    "predict_genes",
    text="Estimate genes that a spatial panel does not measure, from a reference of single cells that has them.",
    roles=("ref", "cells"),
    gives={
        "prediction": Slot(
            "obsm",
            "{key}",
            "expected expression in the unit of the reference, log(1 + counts in 10,000), (n_obs, n_genes) float32, "
            "the names of the genes standing in the run record; a cell without counts has the mean of the others",
            "matrix",
            empty="mean",
        ),
    },
    optional=(),
    metrics=("gene_pearson", "gene_cosine", "gene_rmse"),
    default="knn",
    data=("AnnData", "SpatialData"),
    truth="genes",
    units={"rna": Recipe(normalize_total={"target": 1e4}, log1p={})},
)

# Not among the tasks below, as it takes a fitted method of another one.
ATTENTION = Task(
    "attention",
    text="Map how much cells hear their neighbours by the attention of a fitted method.",
    roles=("cells",),
    gives={
        "weights": Slot(
            "obsp",
            "{key}_attention",
            "how much a cell (row) hears each of its neighbours (columns), (n_obs, n_obs) CSR float32, above 0; "
            "neighbours that are not read together have none",
            "links",
        ),
        "p": Slot(
            "obsp",
            "{key}_attention_p",
            "p-value of each of these weights, (n_obs, n_obs) CSR float32, from 1 / (n_permutations + 1) to 1, not "
            "corrected for the number of pairs",
            "links",
        ),
    },
    optional=(),
    metrics=(),
    default="",
    data=("AnnData", "SpatialData"),
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        IMPUTE,
        ANNOTATE,
        CLUSTER,
        INTEGRATE,
        EMBED,
        SPATIAL_DOMAIN,
        DECONVOLVE,
        JOINT_EMBED,
        PREDICT_MODALITY,
        MATCH_MODALITY,
        TRANSFER_LABELS,
        PREDICT_PERTURBATION,
        PREDICT_GENES,
    )
}
