"""Joint embedding by linear algebra: the floors, and what they do with cells of one modality."""

from __future__ import annotations

import mudata
import numpy as np
import pytest

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import JOINT_EMBED


@pytest.fixture(scope="module")
def whole() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=200, random_state=0)


@pytest.fixture
def mdata(whole: mudata.MuData) -> mudata.MuData:
    with mudata.set_options(pull_on_update=False):
        return whole.copy()


def without(mdata: mudata.MuData, name: str, cells: slice) -> mudata.MuData:
    """The same cells, of which some lack a modality."""
    mods = dict(mdata.mod)
    mods[name] = mods[name][~np.isin(mods[name].obs_names, mdata.obs_names[cells])].copy()
    with mudata.set_options(pull_on_update=False):
        new = mudata.MuData(mods)
        return new[mdata.obs_names].copy()


def pair_of(mdata: mudata.MuData, method: str):
    model = make("joint_embed", method, {})
    return read_roles(JOINT_EMBED, model, mdata, mdata)["pair"]


def test_each_block_of_scores_has_mean_0_and_variance_1(mdata):
    sd.tl.joint_embed(mdata, "svd_concat", n_source=12, n_target=7)
    z = mdata.obsm["X_svd_concat"]
    for block in (z[:, :12], z[:, 12:]):
        np.testing.assert_allclose(block.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(block.std(axis=1), 1, atol=1e-4)


def test_scores_span_what_the_svd_of_numpy_spans(mdata):
    pair = pair_of(mdata, "svd_concat")
    sd.tl.joint_embed(mdata, "svd_concat", n_source=5, n_target=5)
    x = np.vstack(list(pair.source.dense_blocks()))
    scores = x @ np.linalg.svd(x, full_matrices=False)[2][:5].T
    scores = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    ours = mdata.obsm["X_svd_concat"][:, :5]
    signs = np.sign((ours * scores).sum(axis=0))
    # signs of single components change the mean over them, so they are compared where all agree
    if (signs > 0).all():
        np.testing.assert_allclose(ours, scores, atol=1e-3)
    model = sd.fit("joint_embed", mdata, method="svd_concat", n_source=5, n_target=5)
    basis = np.linalg.svd(x, full_matrices=False)[2][:5]
    overlap = np.linalg.svd(model.components_["source"] @ basis.T)[1]
    np.testing.assert_allclose(overlap, 1, atol=1e-4)


def test_pca_of_both_is_that_of_scikit_learn(mdata):
    from sklearn.decomposition import PCA

    pair = pair_of(mdata, "pca")
    x = np.hstack([np.vstack(list(side.dense_blocks())) for side in (pair.source, pair.target)])
    expected = PCA(10, svd_solver="full").fit_transform(x)
    sd.tl.joint_embed(mdata, "pca")
    np.testing.assert_allclose(np.abs(mdata.obsm["X_pca"]), np.abs(expected), atol=1e-3)


def test_the_usual_dimensions_are_those_of_the_competition(mdata):
    sd.tl.joint_embed(mdata)
    assert mdata.obsm["X_svd_concat"].shape == (200, 73 + 20)  # there are 20 proteins, where 27 are usual
    sd.tl.joint_embed(mdata, source="prot", target="rna", key_added="turned")
    assert mdata.obsm["X_turned"].shape == (200, 20 + 73)


@pytest.mark.parametrize(("which", "block"), [("source", slice(0, 12)), ("target", slice(12, 24))])
def test_one_modality_alone_is_its_half_of_both(mdata, which, block):
    mdata = without(mdata, "prot", slice(10))
    sd.tl.joint_embed(mdata, "svd_concat", n_source=12, n_target=12)
    sd.tl.joint_embed(mdata, "one_modality", n_components=12, which=which)
    np.testing.assert_array_equal(mdata.obsm["X_one_modality"], mdata.obsm["X_svd_concat"][:, block])


def test_one_modality_alone_knows_nothing_of_the_other(mdata):
    sd.tl.joint_embed(mdata, "one_modality")
    before = mdata.obsm["X_one_modality"].copy()
    prot = mdata["prot"]
    prot.X = prot.X[np.random.default_rng(0).permutation(prot.n_obs)]
    sd.tl.joint_embed(mdata, "one_modality")
    np.testing.assert_array_equal(mdata.obsm["X_one_modality"], before)


def test_one_modality_without_dimensions_is_refused(mdata):
    with pytest.raises(ValueError, match="n_components must be a whole number of at least 1, but is 0"):
        sd.tl.joint_embed(mdata, "one_modality", n_components=0)


@pytest.mark.parametrize("method", ["svd_concat", "pca", "one_modality"])
@pytest.mark.parametrize("lacking", ["rna", "prot"])
def test_a_cell_of_one_modality_lies_nearer_to_where_both_would_put_it_than_to_others(mdata, method, lacking):
    sd.tl.joint_embed(mdata, method)
    full = mdata.obsm[f"X_{method}"]
    some = without(mdata, lacking, slice(10))
    sd.tl.joint_embed(some, method)
    record = some.uns["scdance"]["joint_embed"][method]
    assert (record["notes"]["n_both"], record["notes"]["n_one"]) == (190, 10)
    z = some.obsm[f"X_{method}"]
    assert np.isfinite(z).all()
    types = mdata.obs["cell_type"].to_numpy()
    centers = np.stack([z[10:][types[10:] == t].mean(axis=0) for t in np.unique(types)])
    nearest = np.unique(types)[((z[:10, None] - centers) ** 2).sum(axis=-1).argmin(axis=1)]
    assert (nearest == types[:10]).mean() >= 0.8
    assert full.shape == z.shape


def test_log_normalised_values_are_taken_as_they_are(mdata):
    import scanpy as sc

    sd.tl.joint_embed(mdata, "pca")
    logged = mdata.mod["rna"]
    target = float(np.median(logged.X.sum(axis=1).A1))
    logged.X = logged.X.astype(np.float32)
    sc.pp.normalize_total(logged, target_sum=target)
    sc.pp.log1p(logged)
    sd.tl.joint_embed(mdata, "pca", key_added="logged")
    np.testing.assert_allclose(np.abs(mdata.obsm["X_logged"]), np.abs(mdata.obsm["X_pca"]), atol=1e-2)
    assert mdata.uns["scdance"]["joint_embed"]["logged"]["input"]["source"]["kind"] == "log-normalised"


def test_the_same_names_in_both_modalities_are_no_problem(mdata):
    sd.tl.joint_embed(mdata, "svd_concat", n_source=5, n_target=5)
    mods = {name: adata.copy() for name, adata in mdata.mod.items()}
    mods["prot"].var_names = mods["rna"].var_names[:20]
    with pytest.warns(UserWarning), mudata.set_options(pull_on_update=False):
        same = mudata.MuData(mods)
    sd.tl.joint_embed(same, "svd_concat", n_source=5, n_target=5)
    np.testing.assert_allclose(same.obsm["X_svd_concat"], mdata.obsm["X_svd_concat"], atol=1e-5)


def test_results_survive_a_file_and_lead_on_to_scanpy(mdata, tmp_path):
    import scanpy as sc

    sd.tl.joint_embed(mdata)
    sc.pp.neighbors(mdata, use_rep="X_svd_concat", n_neighbors=10, transformer="sklearn", method="gauss")
    assert mdata.obsp["connectivities"].shape == (200, 200)
    with mudata.set_options(pull_on_update=False):
        mdata.write_h5mu(tmp_path / "m.h5mu")
        back = mudata.read_h5mu(tmp_path / "m.h5mu")
    np.testing.assert_array_equal(back.obsm["X_svd_concat"], mdata.obsm["X_svd_concat"])
    sd.tl.joint_embed(back)  # claims its own slot


def test_a_fitted_model_places_new_cells(mdata):
    with mudata.set_options(pull_on_update=False):
        old, new = mdata[:150].copy(), mdata[150:].copy()
    model = sd.fit("joint_embed", old, method="svd_concat")
    sd.tl.joint_embed(new, method=model)
    sd.tl.joint_embed(old, method=model)
    z, types = old.obsm["X_svd_concat"], old.obs["cell_type"].to_numpy()
    centers = np.stack([z[types == t].mean(axis=0) for t in np.unique(types)])
    nearest = np.unique(types)[((new.obsm["X_svd_concat"][:, None] - centers) ** 2).sum(axis=-1).argmin(axis=1)]
    assert (nearest == new.obs["cell_type"].to_numpy()).mean() > 0.95


def test_obs_says_what_places_each_cell():
    whole, some = sd.datasets.toy_pairs(60, 40, 8), sd.datasets.toy_pairs(60, 40, 8, unpaired=0.2)
    for mdata in (whole, some):
        sd.tl.joint_embed(mdata, method="pca")
    assert (whole.obs["pca_measured"] == "both").all()
    said = some.obs["pca_measured"].astype(str)
    in_rna, in_prot = (some.obsm[name].astype(bool).ravel() for name in ("rna", "prot"))
    assert (said[in_rna & in_prot] == "both").all()
    assert (said[~in_prot] == "rna").all()
    assert (said[~in_rna] == "prot").all()
