"""The tool that finds the genes of a domain, as a user calls it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu

import scdance as sd
from scdance._checks import InputError, MissingKeyError
from scdance.pp import rank_sum_test
from scdance.tl._domain_genes import _radius


@pytest.fixture(scope="module")
def _tissue() -> ad.AnnData:
    return sd.datasets.toy_domains(n_obs=500, n_vars=300, k=5, n_de=8, lfc=2.0, depth=900.0, theta=20.0)


@pytest.fixture
def tissue(_tissue) -> ad.AnnData:
    """Five layers, from top to bottom, each with eight genes of its own."""
    return _tissue.copy()


def notes(tissue: ad.AnnData, key: str = "domain_genes") -> dict:
    return tissue.uns["scdance"]["spatial_domain"][key]["notes"]


def raised(tissue: ad.AnnData, domain: str) -> set[str]:
    """Genes that are planted as raised in a domain."""
    values = tissue.varm["lfc"][:, tissue.obs["domain"].cat.categories.get_loc(domain)]
    return set(tissue.var_names[np.asarray(values) > 0.5])


@pytest.mark.parametrize("seed", range(3))
def test_the_rank_sum_test_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.5, 2, 12), (70, 12)).astype(float)
    x[:, 0], x[:, 1] = 0, 3
    inside = rng.random(70) < 0.3
    expected = [mannwhitneyu(a[inside], a[~inside], method="asymptotic").pvalue for a in x.T[2:]]
    found = rank_sum_test(sp.csr_matrix(x), inside)
    np.testing.assert_allclose(found[2:], expected, rtol=1e-8)
    assert found[:2].tolist() == [1, 1]


@pytest.mark.parametrize(("n", "expected"), [(6, 1.0), (12, 3**0.5), (10, 3**0.5), (8, 1.0), (17, 2.0), (99, 2.0)])
def test_a_radius_does_not_cut_through_equal_distances(n, expected):
    shells = np.repeat([1, 3**0.5, 2], 6) * (1 + 1e-7 * np.tile(range(6), 3))
    assert _radius(shells, n) == pytest.approx(expected, rel=1e-5)


def test_planted_genes_come_first(tissue):
    sd.tl.domain_genes(tissue, "domain", min_share=0.3)
    genes = notes(tissue)["genes"]
    assert genes["domain"].nunique() == 5
    for domain, its in genes.groupby("domain"):
        planted = raised(tissue, domain)
        assert len(planted) == 8
        assert len(set(its["gene"][:6]) & planted) == 6
        assert its["fold_change"].is_monotonic_decreasing
    assert (genes["fdr"] < 0.05).all()
    assert (genes["share"] > genes["share_around"]).all()


def test_a_layer_is_compared_with_the_layers_beside_it(tissue):
    sd.tl.domain_genes(tissue, "domain")
    height = pd.Series(tissue.obsm["spatial"][:, 1]).groupby(tissue.obs["domain"].to_numpy()).mean().sort_values()
    order = height.index.tolist()
    table = notes(tissue)["around"].set_index("domain")
    assert len(table) == 5
    for i, domain in enumerate(order):
        assert set(table.loc[domain, "compared_with"].split("+")) == set(
            order[max(i - 1, 0) : i] + order[i + 1 : i + 2]
        )
    assert table["n_near"].between(9, 14).all()


def test_a_gene_that_varies_elsewhere_says_nothing(tissue):
    bottom, top = tissue.obsm["spatial"][:, 1].argmin(), tissue.obsm["spatial"][:, 1].argmax()
    names = tissue.obs["domain"].to_numpy()[[bottom, top]]
    x = tissue.X.tolil()
    outer = np.flatnonzero(np.isin(tissue.obs["domain"], names))
    x[:, 0] = 0
    x[outer, 0] = 60  # both ends, which do not touch
    tissue.X = x.tocsr()
    sd.tl.domain_genes(tissue, "domain")
    genes = notes(tissue)["genes"]
    assert set(genes.loc[genes["gene"] == tissue.var_names[0], "domain"]) == set(names)


def test_slices_are_looked_at_one_by_one():
    tissue = sd.datasets.toy_domains(n_obs=500, n_vars=40, k=4, slices=2)
    sd.tl.domain_genes(tissue, "domain", library_key="slice")
    both = notes(tissue)["around"]
    assert both["n_near"].between(8, 14).all()
    assert (both["radius"] < 250).all()


def test_only_the_domains_that_were_asked_for(tissue):
    name = tissue.obs["domain"].cat.categories[1]
    new = sd.tl.domain_genes(tissue, "domain", domains=[name], copy=True, key_added="some")
    assert set(notes(new, "some")["genes"]["domain"]) == {name}
    assert "scdance" not in tissue.uns


def test_spots_without_domain_or_counts_take_no_part(tissue):
    sd.tl.domain_genes(tissue, "domain")
    before = notes(tissue)["genes"]
    lost = tissue.obs["domain"].astype(object)
    far = tissue.obsm["spatial"].max(axis=0) + 1e4
    x = sp.csr_matrix(np.repeat([[0], [99]], tissue.n_vars, axis=1))  # one without counts, one without domain
    more = ad.AnnData(x, obs=pd.DataFrame(index=["x", "y"]), var=tissue.var)
    both = ad.concat([ad.AnnData(tissue.X, obs=tissue.obs, var=tissue.var), more])
    both.obs["domain"] = [*lost, lost.iloc[0], None]
    both.obsm["spatial"] = np.vstack([tissue.obsm["spatial"], far, far + 100])
    sd.tl.domain_genes(both, "domain")
    pd.testing.assert_frame_equal(notes(both)["genes"], before, atol=1e-6)


def test_a_second_run_replaces_the_first_and_files_hold_it(tissue, tmp_path):
    sd.tl.domain_genes(tissue, "domain")
    sd.tl.domain_genes(tissue, "domain", min_fold_change=100.0)  # a table without a row
    assert len(notes(tissue)["genes"]) == 0
    tissue.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert notes(back)["around"].equals(notes(tissue)["around"])


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"domains": ["nine"]}, "no domain 'nine'"),
        ({"n_near": 0}, "n_near"),
        ({"n_around": 0}, "n_around"),
        ({"min_contact": -1}, "min_contact"),
        ({"max_fdr": 0}, "max_fdr"),
        ({"min_share": 2}, "min_share"),
        ({"min_fold_change": -1}, "min_fold_change"),
    ],
)
def test_numbers_out_of_range_are_refused(tissue, knobs, match):
    with pytest.raises(InputError, match=match):
        sd.tl.domain_genes(tissue, "domain", **knobs)
    assert "scdance" not in tissue.uns


def test_without_places_or_domains_there_is_nothing_to_look_at(tissue):
    with pytest.raises(MissingKeyError, match="nowhere"):
        sd.tl.domain_genes(tissue, "domain", spatial_key="nowhere")
    with pytest.raises(MissingKeyError, match="region"):
        sd.tl.domain_genes(tissue, "region")
    tissue.obs["domain"] = "one"
    with pytest.raises(InputError, match="one domain"):
        sd.tl.domain_genes(tissue, "domain")
