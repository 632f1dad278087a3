import anndata
import numpy as np
import pandas as pd
import pytest

from scdance import metrics
from scdance._checks import InputError, MissingKeyError
from scdance._core.task import TASKS


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=50)
    adata = anndata.AnnData(
        rng.random((50, 4), dtype=np.float32),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical([f"t{t}" for t in truth]),
                "mine": pd.Categorical(np.where(rng.random(50) < 0.8, truth, 0).astype(str)),
            },
            index=[f"cell_{i}" for i in range(50)],
        ),
    )
    adata.obsm["X_mine"] = rng.normal(size=(50, 2)) + truth[:, None]
    adata.uns["scdance"] = {"cluster": {"mine": {"method": "kmeans"}}}
    return adata


def test_a_score_is_one_row_with_the_metrics_of_the_task(adata):
    row = metrics.score(adata, "cluster", key="mine", truth="cell_type")
    assert list(row.columns) == list(TASKS["cluster"].metrics)
    assert list(row.index) == ["mine"]
    assert row.loc["mine", "ari"] == metrics.ari(adata.obs["cell_type"], adata.obs["mine"])


def test_rows_of_several_runs_join_to_a_table(adata):
    adata.obs["other"] = adata.obs["cell_type"]
    rows = [metrics.score(adata, "cluster", key=key, truth="cell_type") for key in ("mine", "other")]
    assert pd.concat(rows).loc["other", "ari"] == 1


def test_a_metric_of_two_parts_needs_no_truth(adata):
    row = metrics.score(adata, "cluster", key="mine", metrics=["silhouette"])
    assert row.loc["mine", "silhouette"] == metrics.silhouette(adata.obsm["X_mine"], adata.obs["mine"])


def test_scoring_changes_nothing(adata):
    before = adata.copy()
    metrics.score(adata, "cluster", key="mine", truth="cell_type")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert adata.uns == before.uns


def test_a_missing_truth_names_the_columns(adata):
    with pytest.raises(MissingKeyError, match=r"it has cell_type, mine. Did you mean 'cell_type'"):
        metrics.score(adata, "cluster", key="mine", truth="cell_typ")


def test_no_truth_where_one_is_needed_is_refused(adata):
    with pytest.raises(InputError, match=r"'ari' compares with a truth.*`truth=`"):
        metrics.score(adata, "cluster", key="mine")


def test_a_missing_result_names_the_runs(adata):
    with pytest.raises(MissingKeyError, match=r"No 'kmeans' in `adata.obs`.*Runs of this task: mine"):
        metrics.score(adata, "cluster", key="kmeans", truth="cell_type")


def test_a_missing_embedding_names_what_is_there(adata):
    del adata.obsm["X_mine"]
    adata.obsm["X_pca"] = np.zeros((50, 2))
    with pytest.raises(MissingKeyError, match=r"No 'X_mine' in `adata.obsm`.*it has X_pca"):
        metrics.score(adata, "cluster", key="mine", metrics=["silhouette"])


def test_an_unknown_task_or_metric_is_refused(adata):
    with pytest.raises(InputError, match=r"task is 'clustering'.*Did you mean 'cluster'"):
        metrics.score(adata, "clustering", key="mine", truth="cell_type")
    with pytest.raises(InputError, match="metric is 'arii'"):
        metrics.score(adata, "cluster", key="mine", truth="cell_type", metrics=["arii"])


def test_a_truth_that_is_missing_everywhere_is_refused(adata):
    adata.obs["empty"] = ""
    with pytest.raises(InputError, match="truth of all 50 cells is missing"):
        metrics.score(adata, "cluster", key="mine", truth="empty")
