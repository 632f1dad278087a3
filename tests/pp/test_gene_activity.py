"""Gene activity: counts of peaks over genes, against a double loop, and what it refuses."""

from __future__ import annotations

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scdance._checks import InputError, MissingKeyError, WrongTypeError
from scdance.pp import gene_activity

N_CELLS, N_PEAKS, N_GENES, UPSTREAM = 7, 60, 25, 300


def places(n, rng, longest=400):
    start = rng.integers(0, 5000, n)
    return pd.DataFrame({
        "chromosome": rng.choice(["chr1", "chr2", "chr3_random"], n),
        "start": start,
        "end": start + rng.integers(1, longest, n),
    })  # fmt: skip


def counts_of(names, **columns):
    x = np.random.default_rng(0).poisson(1.0, (N_CELLS, len(names)))
    obs = pd.DataFrame({"sample": list("aabbccd")}, index=[f"c{i}" for i in range(N_CELLS)])
    return ad.AnnData(sp.csr_matrix(x), obs, pd.DataFrame(columns, index=names))


@pytest.fixture
def peaks():
    """Peaks that overlap and lie in each other, on three chromosomes."""
    return places(N_PEAKS, np.random.default_rng(1))


@pytest.fixture
def genes():
    """Genes on two strands, two of them at two places."""
    rng = np.random.default_rng(2)
    table = places(N_GENES, rng, longest=1500).assign(strand=rng.choice(["+", "-"], N_GENES))
    table.index = [f"G{i % (N_GENES - 2)}" for i in range(N_GENES)]
    return table


@pytest.fixture
def adata(peaks):
    return counts_of([f"{c}:{s}-{e}" for c, s, e in peaks.itertuples(index=False)])


@pytest.fixture
def link():
    return pd.DataFrame(
        np.random.default_rng(3).integers(0, 2, (N_PEAKS, 4)), index=range(N_PEAKS), columns=["A", "B", "C", "D"]
    )


def by_hand(x, peaks, genes, upstream):
    """Counts of each gene by a loop over genes and peaks, in the order in which genes appear."""
    out = {name: np.zeros(len(x)) for name in genes.index}
    for name in out:
        for j, peak in enumerate(peaks.itertuples()):
            met = False
            for gene in genes.loc[[name]].itertuples():
                low = gene.start - (upstream if gene.strand == "+" else 0)
                high = gene.end + (upstream if gene.strand == "-" else 0)
                met |= peak.chromosome == gene.chromosome and max(low, peak.start) < min(high, peak.end)
            out[name] += met * x[:, j]
    return pd.DataFrame(out)


@pytest.mark.parametrize("upstream", [0, UPSTREAM])
def test_peaks_over_genes_and_before_them_are_added_up(adata, peaks, genes, upstream):
    found = gene_activity(adata, genes=genes, upstream=upstream)
    expected = by_hand(adata.X.toarray(), peaks, genes, upstream)
    assert list(found.var_names) == list(expected)
    np.testing.assert_array_equal(found.X.toarray(), expected)
    assert sp.isspmatrix_csr(found.X) and found.X.dtype == np.float32


def test_places_of_peaks_stand_in_columns_or_in_names(adata, peaks, genes):
    expected = gene_activity(adata, genes=genes).X.toarray()
    for mark in ("{}-{}-{}", "{}_{}_{}"):
        named = counts_of([mark.format(*row) for row in peaks.itertuples(index=False)])
        np.testing.assert_array_equal(gene_activity(named, genes=genes).X.toarray(), expected)
    for name in ("chrom", "chromosome"):
        columns = {
            name: peaks["chromosome"].to_numpy(),
            "start": peaks["start"].to_numpy(),
            "end": peaks["end"].to_numpy(),
        }
        plain = counts_of([f"peak_{i}" for i in range(N_PEAKS)], **columns)
        np.testing.assert_array_equal(gene_activity(plain, genes=genes).X.toarray(), expected)


@pytest.mark.parametrize(("strand", "expected"), [("+", 1), ("-", 4)])
def test_the_bases_before_a_gene_lie_where_its_strand_says(strand, expected):
    adata = counts_of(["chr1:800-900", "chr1:2100-2200"])
    adata.X = sp.csr_matrix(np.tile([1, 4], (N_CELLS, 1)))
    gene = pd.DataFrame({"chromosome": "chr1", "start": 1000, "end": 2000, "strand": strand}, index=["G"])
    assert (gene_activity(adata, genes=gene, upstream=150).X.toarray() == expected).all()


@pytest.mark.parametrize(
    ("peak", "expected"), [((900, 1000), 0), ((900, 1001), 1), ((1999, 2100), 1), ((2000, 2100), 0)]
)
def test_the_end_of_an_interval_is_not_in_it(peak, expected):
    adata = counts_of([f"chr1_{peak[0]}_{peak[1]}", "chr1_1500_1600"])
    gene = pd.DataFrame({"chromosome": "chr1", "start": 1000, "end": 2000, "strand": "+"}, index=["G"])
    assert gene_activity(adata, genes=gene, upstream=0).var["n_peaks"].item() == 1 + expected


def gtf(genes):
    lines = ["#!genome-build toy"]
    for name, chromosome, start, end, strand in genes.itertuples():
        place = f"{chromosome}\ttoy\t{{}}\t{start + 1}\t{end}\t.\t{strand}\t."
        lines.append(f'{place.format("gene")}\tgene_id "E{name}"; gene_name "{name}"; gene_type "toy";')
        lines.append(f'{place.format("exon")}\tgene_id "E{name}"; gene_name "other";')
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["toy.gtf", "toy.gtf.gz"])
def test_a_gtf_file_counts_from_one_and_includes_the_last_base(adata, genes, name, tmp_path):
    path = tmp_path / name
    text = gtf(genes).encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    expected = gene_activity(adata, genes=genes)
    for given in (path, str(path)):
        found = gene_activity(adata, genes=given)
        assert list(found.var_names) == list(expected.var_names)
        np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


def test_a_gtf_without_names_goes_by_ids(adata, genes, tmp_path):
    (tmp_path / "toy.gtf").write_text(gtf(genes).replace("gene_name", "note"))
    assert list(gene_activity(adata, genes=tmp_path / "toy.gtf").var_names[:2]) == ["EG0", "EG1"]


def test_a_link_is_a_matrix_with_names_a_table_or_a_key(adata, link):
    expected = adata.X.toarray() @ link.to_numpy()
    adata.varm["link"], adata.uns["link_genes"] = sp.csr_matrix(link.to_numpy()), np.array(list(link))
    adata.varm["table"] = link.set_index(adata.var_names)
    for given in ("link", "table", link.set_index(adata.var_names), (link.to_numpy(), list("ABCD"))):
        found = gene_activity(adata, given)
        assert list(found.var_names) == list("ABCD")
        np.testing.assert_array_equal(found.X.toarray(), expected)
        np.testing.assert_array_equal(found.var["n_peaks"], link.sum())


def test_a_table_is_brought_into_order_by_name(adata, link):
    table = link.set_index(adata.var_names)
    shuffled = table.iloc[np.random.default_rng(0).permutation(N_PEAKS)]
    expected = gene_activity(adata, table).X.toarray()
    np.testing.assert_array_equal(gene_activity(adata, shuffled).X.toarray(), expected)


def test_peaks_that_a_table_lacks_belong_to_no_gene(adata, link):
    table = link.set_index(adata.var_names).iloc[5:]
    with pytest.warns(UserWarning, match="5 of 60 peaks are not in the index"):
        found = gene_activity(adata, table)
    np.testing.assert_array_equal(found.X.toarray(), adata.X.toarray()[:, 5:] @ link.to_numpy()[5:])


def test_a_gene_without_a_peak_has_zeros(adata, link):
    found = gene_activity(adata, link.assign(B=0).set_index(adata.var_names))
    assert found.shape == (N_CELLS, 4) and found[:, "B"].X.sum() == 0 == found.var.loc["B", "n_peaks"]


def test_a_layer_is_read_and_obs_is_kept(adata, genes):
    adata.layers["more"] = adata.X * 2
    before = adata.copy()
    one, two = gene_activity(adata, genes=genes), gene_activity(adata, genes=genes, layer="more")
    np.testing.assert_array_equal(two.X.toarray(), 2 * one.X.toarray())
    pd.testing.assert_frame_equal(one.obs, adata.obs)
    one.obs["sample"] = "other"
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0 and list(adata.var) == list(before.var)


def test_peaks_in_a_file_are_read_a_block_at_a_time(adata, genes, tmp_path):
    expected = gene_activity(adata, genes=genes).X.toarray()
    adata.write_h5ad(tmp_path / "peaks.h5ad")
    backed = ad.read_h5ad(tmp_path / "peaks.h5ad", backed="r")
    np.testing.assert_array_equal(gene_activity(backed, genes=genes).X.toarray(), expected)
    backed.file.close()


def test_peaks_without_a_place_count_not(adata, peaks, genes):
    names = adata.var_names.to_numpy(dtype=object)
    names[:3] = ["chrM", "none", "chr1:a-b"]
    adata.var_names = names
    with pytest.warns(UserWarning, match="3 of 60 peaks have no place"):
        found = gene_activity(adata, genes=genes, upstream=0)
    np.testing.assert_array_equal(found.X.toarray(), by_hand(adata.X.toarray()[:, 3:], peaks[3:], genes, 0))


# What is refused


def test_link_or_genes_must_be_given_and_not_both(adata, genes, link):
    for given in ({}, {"link": link, "genes": genes}):
        with pytest.raises(InputError, match="Pass either `link=`"):
            gene_activity(adata, **given)


def test_a_missing_key_names_what_is_there(adata, genes):
    adata.varm["gene_link"] = sp.csr_matrix(np.eye(N_PEAKS))
    with pytest.raises(MissingKeyError, match=r"No 'gene_lnk'.*Did you mean 'gene_link'"):
        gene_activity(adata, "gene_lnk")
    with pytest.raises(MissingKeyError, match=r"No 'gene_link_genes' in `adata.uns`"):
        gene_activity(adata, "gene_link")
    with pytest.raises(MissingKeyError, match="No layer 'counts'"):
        gene_activity(adata, genes=genes, layer="counts")
    with pytest.raises(MissingKeyError, match="No 'strand' in `genes`"):
        gene_activity(adata, genes=genes.drop(columns="strand"))


@pytest.mark.parametrize(("matrix", "names", "words"), [
    (np.ones((N_PEAKS, 4)), "ABC", r"shape \(60, 4\).*need \(60, 3\)"),
    (np.ones((5, 4)), "ABCD", r"shape \(5, 4\).*need \(60, 4\)"),
    (-np.ones((N_PEAKS, 2)), "AB", "below 0"),
    (np.zeros((N_PEAKS, 2)), "AB", "None of the 2 genes has a peak"),
])  # fmt: skip
def test_a_link_that_does_not_fit_is_refused(adata, matrix, names, words):
    with pytest.raises(InputError, match=words):
        gene_activity(adata, (matrix, list(names)))


def test_a_table_of_other_peaks_is_refused(adata, link):
    with pytest.raises(InputError, match="None of the 60 peaks"):
        gene_activity(adata, link)
    with pytest.raises(InputError, match="must be unique"):
        gene_activity(adata, link.set_index(adata.var_names[[0, *range(N_PEAKS - 1)]]))


def test_other_kinds_are_refused(adata):
    with pytest.raises(WrongTypeError, match=r"a key of `adata\.varm`, a DataFrame or a pair"):
        gene_activity(adata, np.eye(N_PEAKS))
    with pytest.raises(WrongTypeError, match="DataFrame or the path of a GTF"):
        gene_activity(adata, genes={"A": 1})


def test_names_that_are_no_places_are_refused(genes):
    with pytest.raises(InputError, match=r"None of the 2 peaks \(peak_a, peak_b\) has a place"):
        gene_activity(counts_of(["peak_a", "peak_b"]), genes=genes)


def test_chromosomes_of_other_names_are_refused_with_both(adata, genes):
    with pytest.raises(InputError, match=r"genes \(on 1\).*peaks \(on chr"):
        gene_activity(adata, genes=genes.assign(chromosome="1"))


@pytest.mark.parametrize(("wrong", "words"), [
    ({"strand": "."}, "must be '[+]' or '-'"),
    ({"end": 0}, "do not end after a start"),
    ({"start": -5}, "do not end after a start"),
])  # fmt: skip
def test_places_that_are_none_are_refused(adata, genes, wrong, words):
    with pytest.raises(InputError, match=words):
        gene_activity(adata, genes=genes.assign(**wrong))


def test_bases_before_a_gene_are_a_whole_number(adata, genes):
    with pytest.raises(InputError, match="upstream must be a whole number"):
        gene_activity(adata, genes=genes, upstream=-1)


def test_a_file_without_genes_is_refused(adata, tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        gene_activity(adata, genes=tmp_path / "none.gtf")
    (tmp_path / "empty.gtf").write_text("#nothing\n")
    with pytest.raises(InputError, match="no line of a gene"):
        gene_activity(adata, genes=tmp_path / "empty.gtf")
