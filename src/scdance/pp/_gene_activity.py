"""Open chromatin over genes: counts of peaks, added up for each gene."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, MissingKeyError, WrongTypeError, column, listed, nearest, warn, whole_number

from ._rows import OnDisk, Rows, blocks, canonical, is_on_disk

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

CHROMOSOME = ("chrom", "chromosome")  # what a column of chromosomes is called
_PEAK = re.compile(r"^(.+)[:_-](\d+)[_-](\d+)$")
_ATTRIBUTE = re.compile(r'(gene_name|gene_id) "?([^";]+)"?')


def gene_activity(
    adata: AnnData,
    link: str | pd.DataFrame | tuple[Any, Any] | None = None,
    *,
    genes: pd.DataFrame | str | Path | None = None,
    upstream: int = 2000,
    layer: str | None = None,
) -> AnnData:
    """Add up the counts of open regions (peaks) over each gene.

    Which peaks belong to a gene is said by a table, `link`, or by where `genes` lie: a peak counts for a gene where it
    overlaps its body or the bases before it, in the direction in which it is read. A peak may count for several genes,
    and for each of them once.

    Parameters
    ----------
    adata
        Counts of cells × peaks.
    link
        Which peak belongs to which gene: the key of a matrix (n_peaks, n_genes) in ``adata.varm``, with the names of
        the genes in ``adata.uns[f"{link}_genes"]``; a DataFrame with peaks as index and genes as columns, which is
        brought into the order of the peaks by name; or a matrix and the names of its genes. Ones and zeros, or weights
        of at least 0.
    genes
        Where genes lie: a DataFrame with the names of genes as index and the columns chromosome, start, end (half-open,
        from 0, as in BED files) and strand ("+" or "-"); or the path of a GTF file, also gzipped, of which the lines of
        genes are read. Lines with the same name are one gene. Where the peaks lie is read from the columns chrom (or
        chromosome), start and end of ``adata.var``, half-open as well, or from names such as chr1:100-200,
        chr1-100-200 and chr1_100_200.
    upstream
        Bases before a gene that count for it, at least 0; only with `genes`.
    layer
        Layer of the counts; None: ``adata.X``.

    Returns
    -------
    AnnData of cells × genes: CSR float32 in ``X``, the ``obs`` of `adata`, and in ``var["n_peaks"]`` the number of
    peaks of each gene. All genes are there, in their order; one without a peak has zeros.

    Raises
    ------
    KeyError
        There is no such layer or matrix, or a column is missing.
    InputError
        Neither or both of `link` and `genes` are given, the shape of a matrix does not fit, no peak has a place, or no
        gene has a peak.
    TypeError
        `link` or `genes` is of another kind.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata as ad, scdance as sd
    >>> peaks = pd.DataFrame(index=["chr1:100-200", "chr1:5000-5100", "chr2:100-200"])
    >>> genes = pd.DataFrame({"chromosome": "chr1", "start": 1000, "end": 5050, "strand": "+"}, index=["Abc1"])
    >>> sd.pp.gene_activity(ad.AnnData(np.array([[1, 2, 4.0]]), var=peaks), genes=genes).to_df().iloc[0].to_dict()
    {'Abc1': 3.0}
    """
    import anndata as ad
    import pandas as pd

    if (link is None) == (genes is None):
        msg = "Pass either `link=`, which peaks belong to which gene, or `genes=`, where the genes lie."
        raise InputError(msg)
    whole_number(upstream, "upstream")
    counts = _counts(adata, layer)
    matrix, names = _linked(adata, link) if genes is None else _overlapping(adata, genes, upstream)
    n_peaks = np.diff(sp.csc_matrix(matrix).indptr)
    if not n_peaks.any():
        msg = f"None of the {len(names)} genes has a peak. Look at `link`: it holds zeros only."
        raise InputError(msg)
    parts = [canonical(block @ matrix) for _, block in blocks(counts)]
    var = pd.DataFrame({"n_peaks": n_peaks}, index=pd.Index(names))
    return ad.AnnData(sp.vstack(parts, format="csr"), obs=adata.obs.copy(), var=var)


def _counts(adata: AnnData, layer: str | None) -> Rows:
    if layer is not None and layer not in adata.layers:
        msg = f"No layer {layer!r} in `adata.layers`; it has {listed(adata.layers)}.{nearest(layer, adata.layers)}"
        raise MissingKeyError(msg)
    matrix: Any = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        msg = "`adata.X` is empty; pass the layer with the counts of the peaks as `layer=`."
        raise InputError(msg)
    return OnDisk(matrix) if is_on_disk(matrix) else canonical(matrix)


# ------------------------------------------------------------------ a table of peaks and genes


def _linked(adata: AnnData, link: Any) -> tuple[sp.csr_matrix, list[str]]:
    """Peaks × genes of a given table, and the names of the genes."""
    import pandas as pd

    if isinstance(link, str):
        link, said = _stored(adata, link), f"`adata.varm[{link!r}]`"
    else:
        said = "`link`"
    if isinstance(link, pd.DataFrame):
        return _in_order(adata, link), [str(name) for name in link.columns]
    if not (isinstance(link, tuple | list) and len(link) == 2):
        msg = f"link must be a key of `adata.varm`, a DataFrame or a pair (matrix, names), not {type(link).__name__}."
        raise WrongTypeError(msg)
    matrix, names = canonical(link[0]), [str(name) for name in np.asarray(link[1]).ravel()]
    if matrix.shape != (adata.n_vars, len(names)):
        msg = (
            f"{said} has the shape {matrix.shape}, but {adata.n_vars} peaks and {len(names)} names of genes need "
            f"{(adata.n_vars, len(names))}."
        )
        raise InputError(msg)
    return _weights(matrix), names


def _stored(adata: AnnData, key: str) -> Any:
    """The matrix of `varm` with the names of its genes."""
    import pandas as pd

    if key not in adata.varm:
        msg = (
            f"No {key!r} in `adata.varm`; it has {listed(adata.varm)}. Pass the key of a matrix of peaks × genes as "
            f"`link=`, or where the genes lie as `genes=`.{nearest(key, adata.varm)}"
        )
        raise MissingKeyError(msg)
    matrix, names = adata.varm[key], f"{key}_genes"
    if isinstance(matrix, pd.DataFrame):
        return matrix
    if names not in adata.uns:
        msg = f"No {names!r} in `adata.uns`; it should hold the names of the {matrix.shape[1]} genes in varm[{key!r}]."
        raise MissingKeyError(msg)
    return matrix, adata.uns[names]


def _in_order(adata: AnnData, table: pd.DataFrame) -> sp.csr_matrix:
    """A table of peaks × genes in the order of the peaks; those that it lacks belong to no gene."""
    import pandas as pd

    names = pd.Index(table.index.astype(str))
    if not names.is_unique:
        msg = f"The index of `link` must be unique, but {listed(names[names.duplicated()].unique(), 3)} stand twice."
        raise InputError(msg)
    row = names.get_indexer(adata.var_names.astype(str))
    if (row < 0).all():
        msg = (
            f"None of the {adata.n_vars} peaks ({listed(adata.var_names, 3)}) is in the index of `link` "
            f"({listed(names, 3)}). Pass peaks as index and genes as columns."
        )
        raise InputError(msg)
    if (row < 0).any():
        warn(f"{int((row < 0).sum())} of {adata.n_vars} peaks are not in the index of `link`; they belong to no gene.")
    here = np.flatnonzero(row >= 0)
    order = sp.csr_matrix((np.ones(len(here)), (here, row[here])), shape=(adata.n_vars, len(names)))
    return _weights(canonical(order @ canonical(table.to_numpy(dtype=np.float32))))


def _weights(matrix: sp.csr_matrix) -> sp.csr_matrix:
    if not (np.isfinite(matrix.data).all() and matrix.data.min(initial=0) >= 0):
        msg = "`link` has values below 0 or not finite; expected ones and zeros, or weights of at least 0."
        raise InputError(msg)
    return matrix


# ------------------------------------------------------------------ places on chromosomes


def _overlapping(adata: AnnData, genes: Any, upstream: int) -> tuple[sp.csr_matrix, list[str]]:
    """Which peak overlaps which gene or the bases before it, peaks × genes of ones; and the names of the genes."""
    import pandas as pd

    peaks = _peaks(adata)
    table = _genes(genes)
    forward = (table["strand"] == "+").to_numpy()
    start = table["start"].to_numpy() - np.where(forward, upstream, 0)
    end = table["end"].to_numpy() + np.where(forward, 0, upstream)
    code, names = pd.factorize(table.index)
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for chromosome, rows in table.groupby("chromosome", observed=True).indices.items():
        there = np.flatnonzero((peaks["chromosome"] == chromosome).to_numpy())
        starts, ends = (peaks[edge].to_numpy()[there] for edge in ("start", "end"))
        peak, gene = _overlaps(starts, ends, start[rows], end[rows])
        pairs.append(np.stack([there[peak], code[rows[gene]]]))
    found = np.concatenate(pairs, axis=1)
    if not found.size:
        msg = (
            f"None of the {len(names)} genes (on {listed(table['chromosome'].unique(), 4)}) overlaps one of the peaks "
            f"(on {listed(peaks['chromosome'].dropna().unique(), 4)}). Are the names of the chromosomes and the "
            "genome the same?"
        )
        raise InputError(msg)
    matrix = canonical(sp.coo_matrix((np.ones(found.shape[1]), found), shape=(adata.n_vars, len(names))))
    matrix.data[:] = 1  # of places of one gene that overlap each other, too
    return matrix, [str(name) for name in names]


def _overlaps(
    start: np.ndarray, end: np.ndarray, start_of: np.ndarray, end_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of half-open intervals of two sets that have a base in common: positions in either."""
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate(end[order]) if len(order) else end  # what ends before it cannot be reached
    first = np.searchsorted(reach, start_of, side="right")
    n = np.maximum(np.searchsorted(start[order], end_of, side="left") - first, 0)
    other = np.repeat(np.arange(len(start_of)), n)
    one = order[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(first, n)]
    is_met = (end[one] > start_of[other]) & (start[one] < end_of[other])
    return one[is_met], other[is_met]


def _peaks(adata: AnnData) -> pd.DataFrame:
    """Chromosome, start and end of each peak; −1 and no chromosome where it has none."""
    import pandas as pd

    name = next((name for name in CHROMOSOME if name in adata.var), None)
    if name is not None and {"start", "end"} <= set(adata.var):
        found = pd.DataFrame({"chromosome": adata.var[name].astype("string")}, index=adata.var_names)
        for edge in ("start", "end"):
            found[edge] = pd.to_numeric(adata.var[edge], errors="coerce")
    else:
        said = [_PEAK.match(str(peak)) for peak in adata.var_names]
        parts = [match.groups() if match else (None, None, None) for match in said]
        found = pd.DataFrame(parts, columns=["chromosome", "start", "end"], index=adata.var_names)
        found[["start", "end"]] = found[["start", "end"]].astype(float)
    lost = found.isna().any(axis=1)
    if lost.all():
        msg = (
            f"None of the {adata.n_vars} peaks ({listed(adata.var_names, 3)}) has a place. Expected the columns "
            "chrom, start and end in `adata.var`, or names such as chr1:100-200, chr1-100-200 or chr1_100_200."
        )
        raise InputError(msg)
    if lost.any():
        warn(f"{int(lost.sum())} of {adata.n_vars} peaks have no place ({listed(found.index[lost], 3)}) and count not.")
    found.loc[lost, "chromosome"] = None
    return found.fillna({"start": -1, "end": -1}).astype({"start": np.int64, "end": np.int64})


def _genes(genes: Any) -> pd.DataFrame:
    """Chromosome, half-open start and end, and strand of each place of a gene, with names as index."""
    import pandas as pd

    if isinstance(genes, str | Path):
        return _gtf(Path(genes))
    if not isinstance(genes, pd.DataFrame):
        msg = f"genes must be a DataFrame or the path of a GTF file, not {type(genes).__name__}."
        raise WrongTypeError(msg)
    first = "chrom" if "chrom" in genes and "chromosome" not in genes else "chromosome"
    said = {"where": "genes", "what": "the column", "argument": "genes"}
    found = {name: column(genes, name, **said) for name in (first, "start", "end", "strand")}
    table = pd.DataFrame(found).rename(columns={first: "chromosome"})
    table = table.astype({"chromosome": str, "start": np.int64, "end": np.int64, "strand": str})
    return _checked(table)


def _gtf(path: Path) -> pd.DataFrame:
    """The genes of a GTF file, whose places count from 1 and include the last base."""
    import pandas as pd

    rows = list(_gtf_genes(path))
    if not rows:
        msg = f"{path} has no line of a gene: expected GTF, with `gene` in the third column and a gene_name or gene_id."
        raise InputError(msg)
    table = pd.DataFrame(rows, columns=["name", "chromosome", "start", "end", "strand"])
    return _checked(table.set_index("name"))


def _gtf_genes(path: Path) -> Iterator[tuple[str, str, int, int, str]]:
    if not path.is_file():
        msg = f"There is no file {path}; pass the path of a GTF file as `genes=`."
        raise InputError(msg)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) < 9 or cells[2] != "gene":
                continue
            attributes: dict[str, str] = dict(_ATTRIBUTE.findall(cells[8]))
            name = attributes.get("gene_name") or attributes.get("gene_id")
            if name:
                yield name, cells[0], int(cells[3]) - 1, int(cells[4]), cells[6]


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Refuse places that are none."""
    strands = set(table["strand"]) - {"+", "-"}
    if strands:
        msg = f"The strand of a gene must be '+' or '-', but {listed(sorted(strands), 3)} occur."
        raise InputError(msg)
    empty = table.index[(table["end"] <= table["start"]) | (table["start"] < 0)]
    if len(empty):
        msg = f"{len(empty)} genes do not end after a start of at least 0: {listed(empty, 3)}."
        raise InputError(msg)
    return table
