"""Log loss of a logistic regression within references, by the number of genes with the largest F statistic.

    SCDANCE_DATA_DIR=… python docs/dev/number_of_genes.py mouse1 100 500 1000 2000 5000

The first word is mouse1, mouse2, lung or worm; no query is looked at.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

import scdance as sd

FEWEST, CLIP = 3, 10.0  # cells of a type; standard deviations


def reference(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-normalised expression of a reference, dense, and its types."""
    if name == "lung":
        cells = sd.datasets.load("lung_lines")
        cells = cells[cells.obs["batch"] == "sc_celseq2"]
    else:
        sets = {"mouse1": "baron_mouse_1_to_2", "mouse2": "baron_mouse_2_to_1", "worm": "worm_neuron"}
        cells = sd.datasets.problem("annotate", sets[name]).arguments["ref"]
    x = cells.X.toarray().astype(np.float32)
    return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4), cells.obs["cell_type"].astype(str).to_numpy()


def loss(x: np.ndarray, types: np.ndarray, n_genes: int) -> float:
    """Mean log loss over three folds."""
    names, codes = np.unique(types, return_inverse=True)
    moments = sd.pp.group_moments(sd.pp.canonical(x), codes, len(names))
    x = x[:, sd.pp.telling_genes(moments, n_genes)]
    z = np.minimum((x - x.mean(axis=0)) / x.std(axis=0), CLIP)
    kept = np.bincount(codes)[codes] >= FEWEST
    z, codes, out = z[kept], codes[kept], []
    for taught, held in StratifiedKFold(3, shuffle=True, random_state=0).split(z, codes):
        machine = LogisticRegression(C=1.0, max_iter=100).fit(z[taught], codes[taught])
        out.append(log_loss(codes[held], machine.predict_proba(z[held]), labels=machine.classes_))
    return float(np.mean(out))


def main(name: str, numbers: list[int]) -> None:
    """Write a line for each number of genes."""
    x, types = reference(name)
    for n_genes in numbers:
        sys.stdout.write(f"{name} {n_genes} {loss(x, types, n_genes):.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1], [int(word) for word in sys.argv[2:]])
