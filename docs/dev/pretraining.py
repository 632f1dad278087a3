"""What CellPLM gains by having seen other cells: time, memory and hidden counts of pre-training; a probe; few labels.

    SCDANCE_DATA_DIR=… python docs/dev/pretraining.py files /tmp/files    # the corpus, as .h5ad
    OMP_NUM_THREADS=2 python docs/dev/pretraining.py train /tmp/files /tmp/model docs/leaderboard/extra/pretraining.csv
    python docs/dev/pretraining.py use /tmp/files /tmp/model docs/leaderboard/extra/pretraining.csv
    OMP_NUM_THREADS=1 python docs/dev/pretraining.py cost /tmp/files /tmp/model docs/leaderboard/extra/pretraining.csv
    python docs/dev/pretraining.py genes /tmp/files /tmp/another docs/leaderboard/extra/pretraining.csv

Corpus: cells of the sets at hand whose genes have symbols (mouse symbols in capitals, Ensembl ids by HGNC). The PBMCs
of three chemistries (Symphony) are held out: no step of the training sees them. ``use`` asks how well a linear
classifier tells their types from the space (5 folds, all chemistries mixed), beside PCA and a network that has not been
trained, and how well types of half of the cells are told from 50 labelled ones of the other half, paired over five
seeds, beginning from the model and from nothing. ``cost`` places 100,000 simulated cells. ``genes`` trains another
model, on all files but that with the PBMCs of a panel, and asks what the genes that the panel lacks gain by beginning
with it.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import scdance as sd
from scdance._core import registry
from scdance._settings import settings
from scdance.bench._cell import peak_mb, resident_mb

HELD_OUT, LABELS, N_LABELLED, SEEDS, EPOCHS = "symphony_pbmc", "cell_type", 50, range(5), 60
PLACED = 100_000  # simulated cells
PANEL, PANEL_FILE = "pbmc10k_genes", "pbmc_cite"  # cells whose genes are held out, and the file that has them
KEYS = dict.fromkeys(("bmmc_cite", "cortex", "lung_lines"), "batch")
COLUMNS = ("question", "method", "seed", "score", "cpu_seconds", "mb")


def files(folder: Path) -> None:
    """Write the corpus and the held-out cells."""
    import mudata

    data = Path(settings.data_dir or "")
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "pbmc_cite": mudata.read_h5mu(data / "multimodal/pbmc10k_cite.h5mu")["rna"],
        "bmmc_cite": mudata.read_h5mu(data / "multimodal/neurips2021_cite_starter.h5mu")["rna"],
        "bmmc_multiome": mudata.read_h5mu(data / "multimodal/neurips2021_multiome_starter.h5mu")["rna"],
        "cortex": mudata.read_h5mu(data / "multimodal/snareseq_adult_cortex.h5mu")["rna"],
        "thp1_screen": ad.read_h5ad(data / "perturb/papalexi_lowmoi_299.h5ad"),
        "pancreas_tumour": ad.read_h5ad(data / "deconv/pdac_a_indrop.h5ad"),
        "lung_lines": ad.read_h5ad(data / "batch/cellbench_lung_lines.h5ad"),
        HELD_OUT: ad.read_h5ad(data / "batch/symphony_pbmc_3chem.h5ad"),
    }
    symbols = pd.read_csv(data / "prior/hgnc_symbols.tsv.gz", sep="\t")
    by_id = dict(zip(symbols["ensembl_gene_id"], symbols["symbol"], strict=True))
    for name, adata in found.items():
        names = [str(by_id.get(gene, gene)).upper() for gene in adata.var_names]
        first = ~pd.Index(names).duplicated()
        out = ad.AnnData(
            adata.X[:, first].tocsr(), obs=adata.obs[[c for c in ("batch", LABELS) if c in adata.obs]].copy()
        )
        out.var_names = np.array(names)[first]
        out.write_h5ad(folder / f"{name}.h5ad")


def corpus(folder: Path) -> dict[str, Path]:
    """The files that train."""
    return {path.stem: path for path in sorted(folder.glob("*.h5ad")) if path.stem != HELD_OUT}


def train(folder: Path, model: Path, path: Path) -> None:
    """Pre-train, and note time, memory and how far off hidden counts are."""
    registry.get("embed", "cellplm")
    held, start = resident_mb(), time.process_time()
    made = sd.fm.pretrain(corpus(folder), model, config="small", sample_key=KEYS, epochs=EPOCHS, progress=False)
    cpu, mb = time.process_time() - start, peak_mb() - held
    note(path, "CPU minutes of pre-training", "cellplm", 0, cpu / 60, cpu, mb)
    for name in ("hidden_deviance", "hidden_mse"):
        note(path, f"{name} over that of the gene means", "cellplm", 0, made.notes_[name])


def use(folder: Path, model: Path, path: Path) -> None:
    """Ask the probe and the few labels."""
    cells = ad.read_h5ad(folder / f"{HELD_OUT}.h5ad")
    cells = cells[cells.obs[LABELS].notna()].copy()
    for method, knobs in {"cellplm": {}, "pca": {}, "cellplm untrained": {}}.items():
        chosen = {"pca": "pca", "cellplm": model}.get(method) or untrained(model)
        start = time.process_time()
        sd.tl.embed(
            cells, method=chosen, batch_key="batch" if method != "pca" else None, key_added="z", progress=False, **knobs
        )
        cpu = time.process_time() - start
        note(path, "linear probe, accuracy", method, 0, probe(cells.obsm["X_z"], cells.obs[LABELS]), cpu)
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(cells.n_obs)
        ref, query = cells[order[: cells.n_obs // 2]].copy(), cells[order[cells.n_obs // 2 :]].copy()
        ref.obs["known"] = ref.obs[LABELS].where(np.arange(ref.n_obs) < N_LABELLED)
        for method, knobs in {
            "cellplm": {"method": "cellplm", "init": str(model)},
            "cellplm from nothing": {"method": "cellplm"},
            "svm": {"method": "svm"},
        }.items():
            start = time.process_time()
            sd.tl.annotate(
                query, ref, labels_key="known", key_added="found", random_state=seed, progress=False, **knobs
            )
            cpu = time.process_time() - start
            right = float((query.obs["found"].astype(str) == query.obs[LABELS].astype(str)).mean())
            note(path, f"{N_LABELLED} labels, accuracy", method, seed, right, cpu)


def cost(_: Path, model: Path, path: Path) -> None:
    """Place many cells, and note time and memory."""
    made = sd.load(model)
    genes = made.preps_["cells"].var_names
    cells = sd.datasets.toy_clusters(PLACED, len(genes), k=10, depth=1000)
    cells.var_names = genes
    held, start = resident_mb(), time.process_time()
    sd.tl.embed(cells, method=made, key_added="z", progress=False)
    cpu, mb = time.process_time() - start, peak_mb() - held
    note(path, f"CPU seconds of placing {PLACED:,} cells", "cellplm", 0, cpu, cpu, mb)


def genes(folder: Path, model: Path, path: Path) -> None:
    """Ask what beginning with a model of other cells gives to genes of a panel."""
    problems = [sd.datasets.problem("predict_genes", PANEL, seed) for seed in SEEDS]
    if not model.exists():
        others = {file.stem: file for file in sorted(folder.glob("*.h5ad")) if file.stem != PANEL_FILE}
        there = {gene for file in others.values() for gene in ad.read_h5ad(file, backed="r").var_names}
        asked = {gene.upper() for given in problems for each in (given.data, given.truth) for gene in each.var_names}
        keys = {name: "batch" for name in (*KEYS, HELD_OUT) if name in others}
        sd.fm.pretrain(others, model, genes=sorted(asked & there), sample_key=keys, epochs=EPOCHS, progress=False)
    for seed, given in zip(SEEDS, problems, strict=True):
        truth, ref = given.truth, given.arguments["ref"]
        for adata in (given.data, ref, truth):
            adata.var_names = adata.var_names.str.upper()
        for method, knobs in {"cellplm": {"init": str(model)}, "cellplm from nothing": {}}.items():
            start = time.process_time()
            sd.tl.predict_genes(
                given.data, ref, method="cellplm", genes=list(truth.var_names), key_added="found", random_state=seed,
                progress=False, **knobs,
            )  # fmt: skip
            cpu = time.process_time() - start
            scores = sd.metrics.score(given.data, "predict_genes", key="found", truth=truth)
            note(path, f"{PANEL}, Pearson", method, seed, float(scores["gene_pearson"].item()), cpu)


def untrained(model: Path) -> Any:
    """The network of a model before any training, but for the means of the genes."""
    import torch

    made = sd.load(model)
    fresh = made.net()
    with torch.no_grad():
        fresh.encoder.origin.copy_(made.net_.encoder.origin)
    made.net_ = fresh.eval()
    return made


def probe(z: np.ndarray, labels: Any) -> float:
    """Accuracy of logistic regression, 5 folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(
        cross_val_score(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), z, labels, cv=folds).mean()
    )


def note(
    path: Path, question: str, method: str, seed: int, score: float, cpu: float | None = None, mb: float | None = None
) -> None:
    """Add a row, in place of one to the same question."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [row for row in rows if (row["question"], row["method"], row["seed"]) != (question, method, str(seed))]
    values = (
        question,
        method,
        seed,
        f"{score:.4f}",
        "" if cpu is None else f"{cpu:.1f}",
        "" if mb is None else f"{mb:.0f}",
    )
    rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["question"], row["method"], int(row["seed"]))))


if __name__ == "__main__":
    {"files": files, "train": train, "use": use, "cost": cost, "genes": genes}[sys.argv[1]](*map(Path, sys.argv[2:]))
