"""The aligner: by name, never by position, and it says why names do not meet."""

from __future__ import annotations

import numpy as np
import pytest

from scdance._checks import InputError
from scdance.pp import align_genes
from scdance.pp._genes import kind_of_names

GENES = [f"Gene{i}" for i in range(100)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(100)]


def test_genes_in_the_same_order_are_found():
    found = align_genes(GENES, GENES)
    assert found.columns.tolist() == list(range(100))
    assert (found.n_shared, found.n_missing, found.n_extra) == (100, 0, 0)


def test_another_order_missing_and_extra_genes_are_counted():
    rng = np.random.default_rng(0)
    present = rng.permutation([*GENES[:80], "more1", "more2", "more3"])
    found = align_genes(GENES, present)
    assert (found.n_shared, found.n_missing, found.n_extra) == (80, 20, 3)
    assert (found.columns[80:] == -1).all()
    assert present[found.columns[:80]].tolist() == GENES[:80]


def test_names_that_are_numbers_pass():
    assert align_genes([str(i) for i in range(60)], np.arange(60)).n_shared == 60


@pytest.mark.parametrize(("n_wanted", "n_there", "enough"), [
    (100, 50, True), (100, 49, False), (2000, 200, True), (2000, 199, False), (20, 20, True), (20, 19, False),
])  # fmt: skip
def test_how_many_genes_must_be_there(n_wanted, n_there, enough):
    wanted = [f"Gene{i}" for i in range(n_wanted)]
    if enough:
        assert align_genes(wanted, wanted[:n_there]).n_shared == n_there
        return
    with pytest.raises(InputError, match=rf"knows {n_wanted} genes.*and {n_there} are the same"):
        align_genes(wanted, wanted[:n_there])


@pytest.mark.parametrize(
    ("wanted", "present", "says"),
    [
        ([g.upper() for g in GENES], GENES, "upper and lower case: rename them, .*str.upper()`"),
        (GENES, [g.upper() for g in GENES], "upper and lower case.*str.capitalize"),
        ([g.lower() for g in GENES], GENES, "upper and lower case.*str.lower"),
        (ENSEMBL, [g + ".12" for g in ENSEMBL], r"version suffix.*adata.var_names.str.split\('.'\).str\[0\]"),
        ([g + ".3" for g in ENSEMBL], ENSEMBL, r"version suffix of the model's: fit it on names without"),
        (ENSEMBL, GENES, r"by Ensembl ids \(human\).*by gene symbols \(mouse\).*Set `adata.var_names` to the kind"),
        ([g.upper() for g in GENES], [str(i) for i in range(100)], r"gene symbols \(human\).*by numbers"),
        (GENES[:60], GENES[:30], "30 are the same. That is too few to go by. Pass all the genes"),
    ],
    ids=["to upper", "to capitals", "to lower", "suffix there", "suffix here", "another kind", "numbers", "few"],
)  # fmt: skip
def test_the_message_says_why_names_do_not_meet(wanted, present, says):
    with pytest.raises(InputError, match=says.replace("()`", r"\(\)`")):
        align_genes(wanted, present)


def test_the_line_that_a_message_proposes_works():
    import pandas as pd

    for wanted, present in (
        ([g.upper() for g in GENES], GENES),
        (GENES, [g.upper() for g in GENES]),
        (ENSEMBL, [g + ".12" for g in ENSEMBL]),
    ):
        with pytest.raises(InputError) as raised:
            align_genes(wanted, present)
        line = str(raised.value).split("`adata.var_names = ")[1].split("`")[0]
        adata = type("Adata", (), {"var_names": pd.Index(present)})
        assert align_genes(wanted, eval(line, {"adata": adata})).n_shared == 100


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (ENSEMBL, "Ensembl ids (human)"),
        ([f"ENSMUSG{i:011d}" for i in range(9)], "Ensembl ids (mouse)"),
        ([f"ENSXYZG{i:011d}" for i in range(9)], "Ensembl ids (another species)"),
        ([f"ENSG{i:011d}.{i}" for i in range(9)], "Ensembl ids with version suffix (human)"),
        (["ACTB", "GAPDH", "CD3E"], "gene symbols (human)"),
        (["Actb", "Gapdh", "Cd3e"], "gene symbols (mouse)"),
        (["1", "2", "3"], "numbers"),
        ([], "nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_kind_of_names_is_guessed(names, kind):
    assert kind_of_names(names) == kind
