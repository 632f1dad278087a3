import gzip
import warnings

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scdance._checks import InputError, WrongTypeError
from scdance.graph import prior_graph

NAMES = ["CD3E", "LCK", "ZAP70", "CD19", "CD3_TotalSeqB", "CD19_TotalSeqB", "ALB"]
SYMBOLS = {"CD3_TotalSeqB": ["CD3D", "CD3E", "CD3G"], "CD19_TotalSeqB": "CD19"}
EDGES = pd.DataFrame(
    {
        "source": ["CD3E", "LCK", "CD3E", "CD19", "LCK", "CD3G"],
        "target": ["LCK", "CD3E", "ZAP70", "CD19", "INS", "ZAP70"],
        "weight": [0.4, 0.9, 0.3, 1.0, 0.8, 0.7],
    }
)
PAIRS = {("CD3E", "LCK"): 0.9, ("CD3E", "ZAP70"): 0.3}
PROTEINS = {  # the antibody CD3 stands for CD3E and CD3G, and is linked with the gene CD3E
    ("CD3_TotalSeqB", "LCK"): 0.9,
    ("CD3_TotalSeqB", "ZAP70"): 0.7,
    ("CD3_TotalSeqB", "CD3E"): 1.0,
    ("CD19_TotalSeqB", "CD19"): 1.0,
}


def dense(pairs, names):
    out = np.zeros((len(names), len(names)), dtype=np.float32)
    for (a, b), weight in pairs.items():
        out[names.index(a), names.index(b)] = out[names.index(b), names.index(a)] = weight
    return out


def test_the_larger_weight_of_an_edge_counts_and_loops_do_not():
    a, found = prior_graph(EDGES, NAMES)
    np.testing.assert_array_equal(a.toarray(), dense(PAIRS, NAMES))
    assert a.dtype == np.float32
    assert found == {
        "n_matched": 4,
        "share": 4 / 7,
        "n_edges": 2,
        "unmatched": ["CD3_TotalSeqB", "CD19_TotalSeqB", "ALB"],
    }


def test_a_protein_goes_by_its_genes_and_is_linked_with_them():
    a, found = prior_graph(EDGES, NAMES, SYMBOLS)
    np.testing.assert_array_equal(a.toarray(), dense(PAIRS | PROTEINS, NAMES))
    assert found["unmatched"] == ["ALB"]


def test_every_form_of_a_prior_gives_the_same(tmp_path):
    EDGES.to_csv(tmp_path / "edges.csv", index=False)
    EDGES.to_csv(tmp_path / "edges.tsv.gz", index=False, sep="\t")
    EDGES.rename(columns={"source": "protein1", "target": "protein2"}).assign(
        combined_score=(EDGES["weight"] * 1000).round().astype(int)
    ).drop(columns="weight").to_csv(tmp_path / "links.txt", index=False, sep=" ")
    ids = sorted({*EDGES["source"], *EDGES["target"]})
    places = [[ids.index(each) for each in EDGES[side]] for side in ("source", "target")]
    drawn = nx.MultiGraph()
    drawn.add_weighted_edges_from(EDGES.itertuples(index=False))
    with_twice = sp.coo_matrix((EDGES["weight"], places), shape=(len(ids), len(ids)))
    expected = prior_graph(EDGES, NAMES, SYMBOLS)[0].toarray()
    for prior in (
        tmp_path / "edges.csv",
        str(tmp_path / "edges.tsv.gz"),
        tmp_path / "links.txt",
        drawn,
        (with_twice.tocsr(), ids),
        (sp.csc_array(with_twice), np.array(ids)),
    ):
        np.testing.assert_allclose(prior_graph(prior, NAMES, SYMBOLS)[0].toarray(), expected, rtol=1e-6)


def test_all_pairs_of_a_set_are_linked_once(tmp_path):
    sets = {"one": ["CD3E", "LCK", "ZAP70", "LCK"], "two": ["LCK", "ZAP70", "INS"], "none": []}
    a, found = prior_graph(sets, NAMES)
    expected = dict.fromkeys([("CD3E", "LCK"), ("CD3E", "ZAP70"), ("LCK", "ZAP70")], 1.0)
    np.testing.assert_array_equal(a.toarray(), dense(expected, NAMES))
    assert found["n_edges"] == 3
    lines = "".join(f"{name}\thttp://of/the/set\t" + "\t".join(genes) + "\n" for name, genes in sets.items())
    (tmp_path / "sets.gmt").write_text(lines)
    with gzip.open(tmp_path / "sets.gmt.gz", "wt") as file:
        file.write(lines)
    for path in (tmp_path / "sets.gmt", tmp_path / "sets.gmt.gz"):
        assert abs(prior_graph(path, NAMES)[0] - a).nnz == 0


def test_of_a_table_with_two_kinds_of_identifiers_the_known_one_is_taken(tmp_path):
    table = pd.DataFrame({"entrez_a": [916, 916], "entrez_b": [3932, 7535], "symbol_a": ["CD3E", "CD3E"]})
    table["symbol_b"] = ["LCK", "ZAP70"]
    table.to_csv(tmp_path / "string.tsv", sep="\t", index=False)
    expected = dense(dict.fromkeys(PAIRS, 1.0), NAMES)
    np.testing.assert_array_equal(prior_graph(tmp_path / "string.tsv", NAMES)[0].toarray(), expected)
    numbers = ["916", "3932", "7535", "930", "a", "b", "c"]
    np.testing.assert_array_equal(prior_graph(tmp_path / "string.tsv", numbers)[0].toarray(), expected)


def test_case_is_a_way_out_and_versions_do_not_count():
    sets = {"pair": ["ACTB", "Gapdh", "ENSMUSG00000029580.4"]}
    names = ["Actb", "GAPDH", "Gapdh", "ENSMUSG00000029580.12"]
    a, found = prior_graph(sets, names)
    assert found["n_matched"] == 4
    assert a.nnz == 12  # both spellings of Gapdh go by the one that the prior has
    sets["pair"].append("GAPDH")
    exact, _ = prior_graph({"pair": ["ACTB", "GAPDH"], "alone": ["Gapdh"]}, names[:3])
    np.testing.assert_array_equal(exact.toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_one_name_in_two_modalities_is_a_gene_and_its_protein():
    a, _ = prior_graph({"set": ["LCK", "CD4"]}, ["LCK", "CD8A", "CD8A"])
    np.testing.assert_array_equal(a.toarray(), [[0, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_permuted_features_permute_the_graph():
    order = np.random.default_rng(0).permutation(len(NAMES))
    a, _ = prior_graph(EDGES, NAMES, SYMBOLS)
    permuted, _ = prior_graph(EDGES, [NAMES[k] for k in order], SYMBOLS)
    assert abs(permuted - a[order][:, order]).nnz == 0


def test_empty_symbols_leave_the_name():
    a, found = prior_graph(EDGES, ["CD3E", "LCK"], {"CD3E": np.nan, "LCK": ""})
    assert found["n_matched"] == 2
    assert a.nnz == 2


def test_few_matches_are_said_and_none_refused():
    strangers = [f"peak{k}" for k in range(20)]
    with pytest.warns(UserWarning, match=r"only 9\.1% of the features.* peak0, peak1"):
        prior_graph(EDGES, ["CD3E", "LCK", *strangers])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior_graph(EDGES, ["CD3E", "LCK", *strangers[:18]])  # a tenth
    with pytest.raises(InputError, match=r"none of the 20 features.*peak0.*CD3E.*symbols"):
        prior_graph(EDGES, strangers)


@pytest.mark.parametrize(
    ("prior", "error", "words"),
    [
        ("no/such.gmt", InputError, "no file"),
        (EDGES.rename(columns={"source": "sources"}), InputError, r"columns source and target.*sources"),
        (EDGES.assign(weight="strong"), InputError, "'weight', must be numbers"),
        (EDGES.assign(weight=-1.0), InputError, "not negative, but one is -1"),
        (EDGES.assign(weight=np.nan), InputError, "finite"),
        ((sp.eye_array(3), ["CD3E", "LCK"]), InputError, r"\(3, 3\), but with 2 names"),
        ({"set": "CD3E"}, InputError, "'set' is 'CD3E', but must be a list"),
        ({}, InputError, "is empty.*between tabs"),
        (EDGES[:0], InputError, "is empty"),
        (sp.eye_array(7), WrongTypeError, "names of its rows"),
        (3, WrongTypeError, "is a int"),
    ],
)
def test_what_is_no_prior_is_refused(prior, error, words):
    with pytest.raises(error, match=words):
        prior_graph(prior, NAMES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sets.gmt", b"\x89HDF\xff"),
        ("sets.gmt.gz", b"set\thttp\tCD3E\tLCK\n"),  # packed by its name only
        ("edges.tsv", b""),
        ("edges.xlsx", b"PK\x03\x04\xff"),
    ],
)
def test_a_file_that_is_no_prior_is_named_with_the_endings_that_are(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"'{name}' cannot be read.*\.gmt for gene sets.*\.csv"):
        prior_graph(tmp_path / name, NAMES)


def test_a_column_of_var_gives_symbols_as_a_dict_does():
    column = pd.Series(SYMBOLS)
    assert abs(prior_graph(EDGES, NAMES, column)[0] - prior_graph(EDGES, NAMES, SYMBOLS)[0]).nnz == 0


@pytest.mark.parametrize("symbols", [["CD3E"], "gene_symbol", pd.DataFrame(index=NAMES)])
def test_symbols_that_map_nothing_are_refused(symbols):
    with pytest.raises(WrongTypeError, match=f"`symbols` is a {type(symbols).__name__}, but must be a dict"):
        prior_graph(EDGES, NAMES, symbols)


def test_links_of_string_are_found_by_its_table_of_names(tmp_path):
    ids = {"CD3E": "9606.ENSP1", "LCK": "9606.ENSP2", "ZAP70": "9606.ENSP3", "CD19": "9606.ENSP4"}
    lines = [
        f"{ids[a]} {ids[b]} {score}\n"
        for a, b, score in (("CD3E", "LCK", 900), ("LCK", "CD3E", 900), ("ZAP70", "CD3E", 300))
    ]
    (tmp_path / "9606.protein.links.v12.0.txt").write_text("protein1 protein2 combined_score\n" + "".join(lines))
    rows = [f"{of}\t{name}\t500\tof no use\n" for name, of in ids.items()]
    (tmp_path / "info.txt").write_text("#string_protein_id\tpreferred_name\tprotein_size\tannotation\n" + "".join(rows))
    info = pd.read_csv(tmp_path / "info.txt", sep="\t").set_index("preferred_name")["#string_protein_id"]
    a, _ = prior_graph(tmp_path / "9606.protein.links.v12.0.txt", NAMES, info)
    np.testing.assert_allclose(a.toarray(), dense(PAIRS, NAMES), rtol=1e-6)


def test_a_name_with_several_identifiers_has_the_links_of_all():
    symbols = pd.Series(["CD3G", "CD3D", "CD19"], index=["CD3_TotalSeqB", "CD3_TotalSeqB", "CD19_TotalSeqB"])
    a, _ = prior_graph(EDGES, NAMES, symbols)
    given = {"CD3_TotalSeqB": ["CD3G", "CD3D"], "CD19_TotalSeqB": "CD19"}
    assert a[NAMES.index("CD3_TotalSeqB"), NAMES.index("ZAP70")] == np.float32(0.7)
    assert abs(a - prior_graph(EDGES, NAMES, given)[0]).nnz == 0
