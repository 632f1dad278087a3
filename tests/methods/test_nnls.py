"""Deconvolution by non-negative least squares: profiles, shares, and how sure they are."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError, UnknownParameterError

LINE = {300: 0.039, 1000: 0.024, 5000: 0.017}  # RMSE of the specification's simulations, by counts per spot
SLACK = 1.5


def reference(seed: int = 0, k: int = 8, n_cells: int = 800, n_genes: int = 500, sd_log: float = 1.5) -> ad.AnnData:
    """Cells of k types with log-normal profiles, Poisson counts."""
    rng = np.random.default_rng(seed)
    profile = np.exp(rng.normal(0, sd_log, (k, n_genes)))
    profile /= profile.sum(axis=1, keepdims=True)
    codes = np.arange(n_cells) % k
    counts = rng.poisson(profile[codes] * 5000 * np.exp(rng.normal(0, 0.3, (n_cells, 1))))
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([f"type{c}" for c in codes])}, index=[f"c{i}" for i in range(n_cells)]
    )
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.int32)), obs, pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    )


@pytest.fixture(scope="module")
def toys() -> tuple[ad.AnnData, ad.AnnData]:
    return sd.datasets.toy_mixtures(random_state=0)


@pytest.fixture
def spots(toys: Any) -> ad.AnnData:
    return toys[0].copy()


@pytest.fixture
def ref(toys: Any) -> ad.AnnData:
    return toys[1].copy()


@pytest.mark.parametrize("depth", LINE)
def test_shares_are_as_near_to_the_truth_as_the_specification_asks(depth: int):
    mixing, ref = sd.datasets.split_reference(reference(), random_state=0)
    spots = sd.datasets.simulate_visium(
        mixing, "cell_type", n_rows=20, n_cols=20, depth=depth, expression="profiles", gene_effect_sd=0, ambient=0,
        bleed=0, random_state=0,
    )  # fmt: skip
    sd.tl.deconvolve(spots, ref, labels_key="cell_type", n_boot=0, method="nnls")
    score = sd.metrics.score(spots, "deconvolve", key="nnls", truth="true_prop")
    assert score["rmse"].item() <= SLACK * LINE[depth]


def test_the_solution_is_that_of_weighted_active_sets(spots, ref):
    sd.tl.deconvolve(spots, ref, labels_key="cell_type", n_boot=0, method="nnls")
    mean = ref.to_df().groupby(ref.obs["cell_type"].to_numpy()).mean().to_numpy()
    weight = 1 / np.sqrt(mean.mean(axis=0) + 0.01 * mean.mean())
    for i in (0, 5, 50):
        b = scipy.optimize.nnls((mean * weight).T, spots.X[i].toarray().ravel() * weight)[0]
        np.testing.assert_allclose(spots.obsm["nnls_abundance"].iloc[i], b, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(spots.obsm["nnls"].iloc[i], b / b.sum(), rtol=1e-4, atol=1e-6)


def test_a_table_of_mean_profiles_says_the_same_as_its_cells(spots, ref):
    mean = ref.to_df().groupby(ref.obs["cell_type"].to_numpy()).mean()
    sd.tl.deconvolve(spots, ref, labels_key="cell_type", key_added="cells", method="nnls")
    sd.tl.deconvolve(spots, mean, key_added="frame", method="nnls")
    sd.tl.deconvolve(spots, ad.AnnData(mean), key_added="table", method="nnls")
    for key in ("frame", "table"):
        np.testing.assert_allclose(spots.obsm[key], spots.obsm["cells"], atol=1e-4)
        assert list(spots.obsm[key].columns) == list(spots.obsm["cells"].columns)
    assert spots.uns["scdance"]["deconvolve"]["frame"]["input"]["ref"]["kind"] == "profiles"


def test_a_type_with_more_counts_per_cell_needs_fewer_cells(ref):
    ref = reference(k=2)
    twice = ref.copy()
    twice.X[(ref.obs["cell_type"] == "type1").to_numpy().nonzero()[0]] *= 2
    spots = ad.AnnData(
        sp.csr_matrix(np.stack([twice.X[::2].sum(axis=0).A1 + twice.X[1::2].sum(axis=0).A1])), var=ref.var
    )
    sd.tl.deconvolve(spots, twice, labels_key="cell_type", key_added="cells", method="nnls")
    sd.tl.deconvolve(spots, twice, labels_key="cell_type", key_added="rna", size="unit", method="nnls")
    np.testing.assert_allclose(spots.obsm["cells"].iloc[0], [1 / 2, 1 / 2], atol=0.01)
    np.testing.assert_allclose(spots.obsm["rna"].iloc[0], [1 / 3, 2 / 3], atol=0.01)


def test_the_standard_deviation_is_that_of_redrawn_counts(spots, ref):
    sd.tl.deconvolve(spots, ref, labels_key="cell_type", n_boot=400, method="nnls")
    fitted = sd.fit("deconvolve", ref, method="nnls", labels_key="cell_type", n_boot=0)
    rng, i = np.random.default_rng(0), 7
    mean = spots.obsm["nnls_abundance"].iloc[i].to_numpy() @ fitted.profiles_
    drawn = np.zeros((400, spots.n_vars), dtype=np.float32)
    drawn[:, spots.var_names.get_indexer(fitted.preps_["cells"].var_names[fitted.genes_])] = rng.poisson(
        mean, (400, len(mean))
    )
    again = ad.AnnData(sp.csr_matrix(drawn), var=spots.var)
    sd.tl.deconvolve(again, method=fitted)
    np.testing.assert_allclose(spots.obsm["nnls_sd"].iloc[i], again.obsm["nnls"].std(ddof=0), rtol=0.2, atol=0.003)


def test_more_counts_make_the_shares_surer(ref):
    mixing, ref = sd.datasets.split_reference(reference(), random_state=0)
    sds = []
    for depth in (300, 3000):
        spots = sd.datasets.simulate_visium(mixing, "cell_type", n_rows=8, n_cols=8, depth=depth, random_state=0)
        sd.tl.deconvolve(spots, ref, labels_key="cell_type", method="nnls")
        sds.append(spots.obsm["nnls_sd"].to_numpy().mean())
    assert sds[0] > 2 * sds[1] > 0


def test_a_fitted_model_leaves_out_the_genes_that_a_tissue_lacks(spots, ref):
    fitted = sd.fit("deconvolve", ref, method="nnls", labels_key="cell_type", n_boot=0)
    some = spots[:, :52].copy()
    with pytest.warns(UserWarning, match="8 of the 60 genes of the model are not in the object; they are left out"):
        sd.tl.deconvolve(some, method=fitted)
    other = spots[:, :52].copy()
    sd.tl.deconvolve(other, ref[:, :52].copy(), labels_key="cell_type", n_boot=0, method="nnls")
    np.testing.assert_allclose(some.obsm["nnls"], other.obsm["nnls"], atol=0.02)  # only the weights' floor differs


def test_informative_genes_are_those_that_tell_types_apart():
    ref = reference(k=3, n_genes=400)
    x = ref.X.toarray()
    x[:, :300] = np.random.default_rng(0).poisson(5, (ref.n_obs, 300))  # the same in all types
    ref.X = sp.csr_matrix(x)
    ref.var_names = [f"g{i}" for i in range(399)] + ["MT-CO1"]
    model = sd.fit("deconvolve", ref, method="nnls", labels_key="cell_type", genes="informative")
    kept = set(model.preps_["cells"].var_names[model.genes_])
    assert kept
    assert not kept & {f"g{i}" for i in range(300)}
    assert "MT-CO1" not in kept


def test_spots_without_counts_have_no_shares(spots, ref):
    x = spots.X.tolil()
    x[4] = 0
    spots.X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 97 cells have no counts"):
        sd.tl.deconvolve(spots, ref, labels_key="cell_type", method="nnls")
    assert spots.obsm["nnls"].iloc[4].isna().all()
    assert spots.obsm["nnls_sd"].iloc[4].isna().all()
    assert (spots.obsm["nnls_abundance"].iloc[4] == 0).all()
    assert pd.isna(spots.obs["nnls_top"].iloc[4])
    assert spots.obsm["nnls"].drop(index=spots.obs_names[4]).notna().all(axis=None)


def test_names_of_types_that_files_do_not_take_are_written_otherwise(spots, ref, tmp_path):
    ref.obs["cell_type"] = ref.obs["cell_type"].cat.rename_categories({"type1": "T/NK", "type2": "_index"})
    with pytest.warns(UserWarning, match=r"2 of the names \('T/NK', '_index'\)") as told:
        sd.tl.deconvolve(spots, ref, labels_key="cell_type", method="nnls")
    assert len(told) == 1
    assert list(spots.obsm["nnls"].columns) == ["T|NK", "_index|", "type3"]
    assert set(spots.obs["nnls_top"].cat.categories) == {"T/NK", "_index", "type3"}
    spots.write_h5ad(tmp_path / "s.h5ad")
    pd.testing.assert_frame_equal(ad.read_h5ad(tmp_path / "s.h5ad").obsm["nnls"], spots.obsm["nnls"])


def test_cells_of_the_reference_without_a_label_are_left_out(spots, ref):
    full = spots.copy()
    labels = ref.obs["cell_type"].astype(object)
    labels.iloc[:10] = np.nan
    labels.iloc[10:20] = ""
    ref.obs["cell_type"] = labels
    with pytest.warns(UserWarning, match="20 of 150 cells of the reference have no label"):
        sd.tl.deconvolve(spots, ref, labels_key="cell_type", method="nnls")
    sd.tl.deconvolve(full, ref[20:].copy(), labels_key="cell_type", method="nnls")
    np.testing.assert_allclose(spots.obsm["nnls"], full.obsm["nnls"], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "arguments", "error", "says"),
    [
        (None, {"ref": None}, InputError, "NNLS learns from a reference: pass annotated cells as `ref=`"),
        (None, {"labels_key": "celltype"}, MissingKeyError, "No 'celltype' in `ref.obs`.*Did you mean 'cell_type'"),
        (lambda s, r: r.obs.__setitem__("cell_type", "type1"), {}, InputError, "holds 1 type"),
        (lambda s, r: setattr(r, "var_names", [f"x{i}" for i in range(60)]), {}, InputError, "and 0 are the same"),
        (lambda s, r: setattr(s, "X", s.X * -1), {}, InputError, "negative values"),
        (None, {"genes": "some"}, InputError, "'all', 'informative'"),
        (None, {"n_bot": 3}, UnknownParameterError, "Did you mean 'n_boot'"),
    ],
    ids=["no ref", "column", "one type", "genes", "negative", "value", "keyword"],
)  # fmt: skip
def test_wrong_input_is_refused_and_leaves_the_object(spots, ref, change, arguments, error, says):
    if change is not None:
        change(spots, ref)
    before = list(spots.obsm), list(spots.obs), list(spots.uns)
    with pytest.raises(error, match=says):
        sd.tl.deconvolve(spots, **{"ref": ref, "method": "nnls", "labels_key": "cell_type", **arguments})
    assert (list(spots.obsm), list(spots.obs), list(spots.uns)) == before


def test_a_fitted_model_takes_no_second_reference(spots, ref):
    model = sd.fit("deconvolve", ref, method="nnls", labels_key="cell_type")
    with pytest.raises(UnknownParameterError, match="fitted already, so ref, labels_key cannot be set"):
        sd.tl.deconvolve(spots, ref, method=model, labels_key="cell_type")
