"""The way of a comparison: hide, impute, score; and what is said where a step is missing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError

WHOLE_ENTRIES = ("uniform", "exponential")
MASKED = ["rmse_nonzero", "mae_nonzero", "pearson_nonzero", "cosine_nonzero", "rmse_zero", "rmse_both"]
THINNED = ["poisson_gain", "poisson_loss"]


@pytest.fixture
def adata() -> ad.AnnData:
    return sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=2, n_de=10, depth=200)


def table(adata: ad.AnnData, key: str = "knn", **how) -> dict[str, float]:
    return sd.metrics.score(adata, "impute", key=key, **how).iloc[0].to_dict()


# Hiding


def test_what_is_left_is_a_layer_and_the_record_says_how(adata):
    before = adata.X.copy()
    sd.tl.hold_out(adata, "exponential", 0.2, value_space="log1p", random_state=3)
    kept = adata.layers["counts_kept"]
    assert (kept.format, kept.dtype, kept.shape) == ("csr", np.float32, adata.shape)
    wanted = sd.pp.mask(adata.X, "exponential", 0.2, np.random.default_rng(3), value_space="log1p")
    assert abs(kept - wanted).sum() == 0
    assert abs(adata.X - before).sum() == 0
    record = adata.uns["scdance"]["hold_out"]["counts_kept"]
    assert record["params"] == {"protocol": "exponential", "rate": 0.2, "value_space": "log1p"}
    assert (record["input"]["layer"], record["random_state"]) == ("X", 3)


def test_the_seed_decides_and_the_form_of_the_matrix_does_not(adata):
    one, again, other = (sd.tl.hold_out(adata, random_state=seed, copy=True) for seed in (1, 1, 2))
    assert abs(one.layers["counts_kept"] - again.layers["counts_kept"]).sum() == 0
    assert abs(one.layers["counts_kept"] - other.layers["counts_kept"]).sum() > 0
    dense = ad.AnnData(adata.X.toarray())
    sd.tl.hold_out(dense, random_state=1)
    assert abs(one.layers["counts_kept"] - dense.layers["counts_kept"]).sum() == 0


def test_a_copy_leaves_the_object_alone(adata):
    new = sd.tl.hold_out(adata, copy=True)
    assert set(new.layers) == {"counts_kept"}
    assert (len(adata.layers), dict(adata.uns)) == (0, {})


def test_a_view_and_a_file_can_be_used(adata, tmp_path):
    view = adata[10:30]
    sd.tl.hold_out(view)
    assert (adata.X[10:30] - view.layers["counts_kept"]).min() >= 0
    assert len(adata.layers) == 0
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sd.tl.hold_out(backed)
    sd.tl.impute(backed, "knn", layer="counts_kept", output="counts")
    on_disk = table(backed)
    backed.file.close()
    sd.tl.hold_out(adata)
    sd.tl.impute(adata, "knn", layer="counts_kept", output="counts")
    assert on_disk == pytest.approx(table(adata), nan_ok=True)


def test_layers_are_replaced_only_when_told_so(adata):
    adata.layers["counts_kept"] = sp.csr_matrix(adata.shape)
    with pytest.raises(InputError, match=r"layers\['counts_kept'\]` exists.*`kept_layer=`.*`overwrite=True`"):
        sd.tl.hold_out(adata)
    assert (adata.layers["counts_kept"].nnz, dict(adata.uns)) == (0, {})
    sd.tl.hold_out(adata, overwrite=True)
    assert adata.layers["counts_kept"].nnz > 0


def test_replacing_what_a_run_has_seen_is_warned_of(adata, recwarn):
    sd.tl.hold_out(adata)
    sd.tl.impute(adata, "knn", layer="counts_kept")
    sd.tl.impute(adata, "gene_mean")
    sd.tl.hold_out(adata, kept_layer="other")
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"1 results of imputation \(knn\) were made from the layer 'counts_kept'"):
        sd.tl.hold_out(adata, overwrite=True, random_state=1)


def fractions(adata):
    adata.X = adata.X.astype(float) * 1.1


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.filterwarnings("ignore:.*have fractions")
def test_entries_of_counts_by_volume_can_be_hidden_and_scored(adata, on_disk, tmp_path):
    fractions(adata)
    if on_disk:
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sd.tl.hold_out(adata, "entries", 0.3)
    sd.tl.impute(adata, "knn", layer="counts_kept", output="log1p_250")
    assert 0 < table(adata)["rmse_masked"] < 2
    if on_disk:
        adata.file.close()


def negative(adata):
    adata.X = adata.X.astype(float)
    adata.X.data[0] = -1


def missing(adata):
    adata.X = adata.X.astype(float)
    adata.X.data[0] = np.nan


@pytest.mark.parametrize(
    ("change", "arguments", "error", "said"),
    [
        (None, {"rate": 0}, InputError, "rate is 0, but must be a share above 0 and below 1"),
        (None, {"rate": 1}, InputError, "rate is 1, but"),
        (None, {"rate": 2}, InputError, "rate is 2, but"),
        (None, {"protocol": "unifrom"}, InputError, "Did you mean 'uniform'"),
        (None, {"value_space": "log"}, InputError, "value_space is 'log'"),
        (None, {"layer": "raw"}, MissingKeyError, r"No 'raw' in `adata.layers`"),
        (None, {"kept_layer": "a/b"}, InputError, "kept_layer must be a name that HDF5"),
        (None, {"kept_layer": "counts"}, InputError, "the layer that is read"),
        (None, {"random_state": -1}, InputError, "random_state must be a whole number"),
        (fractions, {}, InputError, "hold_out needs whole counts"),
        (negative, {}, InputError, "negative values"),
        (missing, {}, InputError, "NaN or infinite"),
    ],
)
def test_wrong_calls_say_what_to_pass_and_leave_the_object_alone(adata, change, arguments, error, said):
    if change is not None:
        change(adata)
    with pytest.raises(error, match=said):
        sd.tl.hold_out(adata, **arguments)
    assert (len(adata.layers), dict(adata.uns)) == (0, {})


def test_something_else_than_an_anndata_is_refused(adata):
    with pytest.raises(WrongTypeError, match="Expected AnnData or SpatialData, found ndarray"):
        sd.tl.hold_out(adata.X.toarray())


# Scoring


@pytest.mark.parametrize("protocol", ["thinning", *WHOLE_ENTRIES])
@pytest.mark.parametrize("output", ["lognorm", "counts", "log1p", "log1p_nonzero"])
def test_each_score_appears_where_it_means_something_and_nowhere_else(adata, protocol, output):
    sd.tl.hold_out(adata, protocol)
    sd.tl.impute(adata, "knn", layer="counts_kept", output=output)
    found = {name for name, value in table(adata).items() if not np.isnan(value)}
    told = {
        ("thinning", False): set(THINNED),
        ("thinning", True): set(),
        ("whole", False): set(MASKED),
        ("whole", True): {"rmse_known_nonzero"},
    }
    assert found == told["thinning" if protocol == "thinning" else "whole", output == "log1p_nonzero"]


def test_scores_are_those_of_the_arrays_in_the_unit_of_the_metric(adata):
    sd.tl.hold_out(adata, "uniform")
    kept = adata.layers["counts_kept"]
    depth = np.asarray(kept.sum(axis=1))
    sd.tl.impute(adata, "knn", layer="counts_kept", output="counts", key_added="counted")
    sd.tl.impute(adata, "knn", layer="counts_kept", key_added="normal")
    sd.tl.impute(adata, "knn", layer="counts_kept", output="log1p", key_added="logs")
    rates, values = adata.layers["counted"], adata.layers["normal"]
    np.testing.assert_allclose(np.log1p(rates / depth * 1e4), values, rtol=1e-4)  # the depth of what was seen
    expected = sd.metrics.rmse_nonzero(adata.X, kept, np.log1p(rates))
    assert table(adata, "counted")["rmse_nonzero"] == pytest.approx(expected)
    assert table(adata, "normal")["rmse_nonzero"] == pytest.approx(expected, rel=1e-4)
    own = sd.metrics.rmse_nonzero(adata.X, kept, adata.layers["logs"])
    assert table(adata, "logs")["rmse_nonzero"] == pytest.approx(own)
    assert own != pytest.approx(expected, rel=1e-3)  # the expected logarithm is no logarithm of the expectation


def test_units_of_counts_are_those_of_held_out_molecules(adata):
    sd.tl.hold_out(adata)
    kept = adata.layers["counts_kept"]
    sd.tl.impute(adata, "knn", layer="counts_kept", output="counts", key_added="counted")
    sd.tl.impute(adata, "knn", layer="counts_kept", key_added="normal")
    expected = sd.metrics.poisson_gain(adata.X, kept, adata.layers["counted"])
    assert table(adata, "counted")["poisson_gain"] == pytest.approx(expected)
    assert table(adata, "normal")["poisson_gain"] == pytest.approx(expected, rel=1e-3)


def test_a_sparse_layer_of_some_genes_is_scored_as_it_stands(adata):
    sd.tl.hold_out(adata)
    genes = list(adata.var_names[:10])
    sd.tl.impute(adata, "knn", layer="counts_kept", output="counts", genes=genes, key_added="some")
    assert sp.issparse(adata.layers["some"])
    dense = adata.layers["some"].toarray()
    assert table(adata, "some")["poisson_loss"] == pytest.approx(
        sd.metrics.poisson_loss(adata.X, adata.layers["counts_kept"], dense)
    )


def test_the_truth_may_be_a_layer_that_the_user_names(adata):
    adata.layers["all"] = adata.X.copy()
    sd.tl.hold_out(adata, "uniform", layer="all")
    adata.X = adata.layers["counts_kept"].copy()
    sd.tl.impute(adata, "knn")
    with pytest.raises(InputError, match=r"`X`, of which nothing is known to be hidden.*hold_out.*`truth=`"):
        table(adata)
    assert table(adata, truth="all")["rmse_nonzero"] > 0
    with pytest.raises(MissingKeyError, match=r"No 'al' in `adata.layers`.*`truth=`.*Did you mean 'all'"):
        table(adata, truth="al")


def test_without_hidden_counts_a_score_says_what_to_do(adata):
    sd.tl.impute(adata, "knn")
    with pytest.raises(InputError, match=r"The run 'knn' read `X`, of which nothing is known.*scdance.tl.hold_out"):
        table(adata)
    with pytest.raises(InputError, match="Nothing was held out"):
        adata.layers["same"] = adata.X.copy()
        table(adata, truth="same")


def test_a_misspelt_key_names_the_runs(adata):
    sd.tl.hold_out(adata)
    sd.tl.impute(adata, "knn", layer="counts_kept")
    with pytest.raises(MissingKeyError, match=r"No 'kn' in `adata.layers`.*Did you mean 'knn'.*Runs of this task: knn"):
        table(adata, "kn")


def test_counts_that_were_normalised_since_are_no_truth(adata):
    sd.tl.hold_out(adata, "uniform")
    sd.tl.impute(adata, "knn", layer="counts_kept")
    adata.X = adata.X.astype(np.float32).log1p()
    with pytest.raises(InputError, match="perhaps normalised"):
        table(adata)


def test_a_layer_that_was_removed_is_named(adata):
    sd.tl.hold_out(adata)
    sd.tl.impute(adata, "knn", layer="counts_kept")
    del adata.layers["counts_kept"]
    with pytest.raises(MissingKeyError, match=r"No 'counts_kept' in `adata.layers`"):
        table(adata)


def test_scoring_changes_nothing_and_survives_a_file(adata, tmp_path):
    sd.tl.hold_out(adata)
    sd.tl.impute(adata, "knn", layer="counts_kept", output="counts")
    layers = {name: layer.copy() for name, layer in adata.layers.items()}
    once = table(adata)
    assert set(adata.layers) == set(layers)
    assert all(abs(adata.layers[name] - layer).sum() == 0 for name, layer in layers.items())
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert table(ad.read_h5ad(tmp_path / "a.h5ad")) == pytest.approx(once, nan_ok=True)


def test_parts_of_a_result_are_scored_without_any_truth(adata):
    sd.tl.impute(adata, "magic")
    found = table(adata, "magic", metrics=["correlation_inflation"])["correlation_inflation"]
    lognorm = np.log1p(adata.X.toarray() / np.asarray(adata.X.sum(axis=1)) * 1e4)
    assert found == pytest.approx(sd.metrics.correlation_inflation(lognorm, adata.layers["magic"]), abs=1e-5)
    assert found > 0.1
    sd.tl.impute(adata, "magic", output="counts", key_added="other")
    again = table(adata, "other", metrics=["correlation_inflation"])["correlation_inflation"]
    assert again == pytest.approx(found, abs=1e-4)


def test_alarms_take_log_normalised_input_as_it_is(adata):
    counts = adata.X.astype(np.float32)
    adata.X = np.log1p(counts.toarray() / np.asarray(counts.sum(axis=1)) * 1e4)
    sd.tl.impute(adata, "magic")
    found = table(adata, "magic", metrics=["correlation_inflation"])["correlation_inflation"]
    assert found == pytest.approx(sd.metrics.correlation_inflation(adata.X, adata.layers["magic"]))
