"""CPU seconds and memory of a method of modality prediction on simulated cells, RNA to proteins, as one line of JSON.

    OMP_NUM_THREADS=1 python docs/dev/predictor_costs.py 10000 2000 134 scmm 0.12

The words are the numbers of cells, genes and proteins, the method, and the share of the RNA's counts that is kept: 1
leaves 47 % of the entries above 0, 0.12 some 13 %, as in CITE-seq. One cell in ten is asked.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import scdance as sd
from scdance.bench._cell import _import, peak_mb, resident_mb


def main(n_obs: int, n_genes: int, n_proteins: int, method: str, kept: float) -> dict[str, float | str]:
    """Cost of one call with all defaults, after imports."""
    mdata = sd.datasets.toy_pairs(n_obs, n_genes, n_proteins)
    counts = mdata["rna"].X
    counts.data = np.random.default_rng(0).binomial(counts.data.astype(np.int64), kept).astype(counts.dtype)
    counts.eliminate_zeros()
    mdata["rna"].obs["is_train"] = np.arange(n_obs) % 10 > 0
    _import({"task": "predict_modality", "method": method})
    held, start = resident_mb(), time.process_time()
    sd.tl.predict_modality(mdata, method=method, source="rna", target="prot", split_key="is_train", progress=False)
    return {"method": method, "cpu_seconds": round(time.process_time() - start, 1), "mb": round(peak_mb() - held)}


if __name__ == "__main__":
    *sizes, name, share = sys.argv[1:]
    sys.stdout.write(json.dumps(main(*map(int, sizes), name, float(share))) + "\n")
