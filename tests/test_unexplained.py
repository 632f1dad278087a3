"""The tool that looks for types missing from the reference of a deconvolution."""

import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError


@pytest.fixture(scope="module")
def toys():
    """Spots of four types, and a reference that lacks the third; in a third of the spots the third is the main one."""
    spots, ref = sd.datasets.toy_mixtures(n_obs=300, n_vars=200, k=4, n_ref=400, depth=3000)
    kept = ref[ref.obs["cell_type"] != "type3"].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.remove_unused_categories()
    return spots, ref, kept


def solved(toys, ref):
    spots = toys[0].copy()
    sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type", n_boot=0)
    return spots


def test_spots_of_a_missing_type_stand_out_and_its_genes_are_named(toys):
    spots, ref, kept = toys
    found = solved(toys, kept)
    with pytest.warns(UserWarning, match="may be missing"):
        sd.tl.unexplained(found, kept, "nnls", labels_key="cell_type")
    share = spots.obsm["true_prop"]["type3"].to_numpy()
    assert np.corrcoef(found.obs["nnls_residual"], share)[0, 1] > 0.7
    out = (found.obs["nnls_missing"] == "yes").to_numpy()
    assert share[out].mean() > 2 * share.mean()
    genes = found.uns["scdance"]["unexplained"]["nnls"]["notes"]["genes"]
    own = sd.pp.group_moments(ref.X.tocsr().astype(np.float32), ref.obs["cell_type"].cat.codes.to_numpy(), 4).mean
    ratio = pd.Series(own[2] / own.mean(axis=0), index=ref.var_names)
    assert ratio[genes[:10]].mean() > 1.5


def test_the_residual_of_a_whole_reference_is_smaller(toys):
    _, ref, kept = toys
    whole, part = solved(toys, ref), solved(toys, kept)
    sd.tl.unexplained(whole, ref, "nnls", labels_key="cell_type", key_added="all")
    with pytest.warns(UserWarning, match="may be missing"):
        sd.tl.unexplained(part, kept, "nnls", labels_key="cell_type")
    assert whole.obs["all_residual"].mean() < 0.7 * part.obs["nnls_residual"].mean()


@pytest.mark.filterwarnings("ignore:.*may be missing:UserWarning")
def test_a_copy_leaves_the_object_as_it_was_and_a_file_holds_the_result(toys, tmp_path):
    import anndata

    spots = solved(toys, toys[2])
    before = list(spots.obs)
    new = sd.tl.unexplained(spots, toys[2], "nnls", labels_key="cell_type", copy=True)
    assert list(spots.obs) == before
    new.write_h5ad(tmp_path / "new.h5ad")
    again = anndata.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(again.obs["nnls_residual"], new.obs["nnls_residual"])
    assert "deconvolve" in again.uns["scdance"]  # the record of the run itself stays


@pytest.mark.filterwarnings("ignore:.*no counts|.*may be missing:UserWarning")
def test_empty_spots_have_no_residual_and_profiles_do_as_a_reference(toys):
    spots, ref, _ = toys
    spots = spots.copy()
    spots.X = spots.X.multiply(np.arange(300)[:, None] > 0).tocsr()
    codes = ref.obs["cell_type"].cat.codes.to_numpy()
    means = sd.pp.group_moments(ref.X.tocsr().astype(np.float32), codes, 4).mean
    table = pd.DataFrame(means, index=ref.obs["cell_type"].cat.categories, columns=ref.var_names)
    sd.tl.deconvolve(spots, table, method="nnls", n_boot=0)
    sd.tl.unexplained(spots, table, "nnls")
    assert np.isnan(spots.obs["nnls_residual"].iloc[0])
    assert pd.isna(spots.obs["nnls_missing"].iloc[0])
    assert spots.obs["nnls_residual"].iloc[1:].between(0, 1).all()


def test_wrong_calls_say_what_to_pass(toys):
    _, ref, kept = toys
    spots = solved(toys, ref)
    with pytest.raises(MissingKeyError, match="nnls"):
        sd.tl.unexplained(spots, ref, "nls", labels_key="cell_type")
    with pytest.raises(InputError, match="type3"):
        sd.tl.unexplained(spots, kept, "nnls", labels_key="cell_type")
    with pytest.raises(InputError, match="ref="):
        sd.tl.unexplained(spots, None, "nnls")
    spots.obs["nnls_residual"] = 1.0
    with pytest.raises(InputError, match="key_added="):
        sd.tl.unexplained(spots, ref, "nnls", labels_key="cell_type")
