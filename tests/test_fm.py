"""Models of others, brought into the files of scdance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import scdance as sd
from scdance._checks import InputError


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=200, n_vars=80, k=3, n_de=15)


def published(adata, types):
    """What CellTypist keeps of a model: a scaler and one logistic regression per type, on dense values."""
    x = adata.X.toarray().astype(float)
    x = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
    scaler = StandardScaler().fit(x)
    z = np.minimum(scaler.transform(x), 10)
    y = adata.obs["cell_type"].astype(str).where(lambda names: names.isin(types), types[0])
    machine = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=500)).fit(z, y)
    arrays = {
        "coef": np.vstack([each.coef_ for each in machine.estimators_]),
        "intercept": np.concatenate([each.intercept_ for each in machine.estimators_]),
        "classes": machine.classes_.astype(str),
        "features": adata.var_names.to_numpy(dtype=str),
        "mean": scaler.mean_,
        "scale": scaler.scale_,
    }
    return arrays, machine, z


@pytest.mark.parametrize("n_types", [2, 3])
def test_a_published_model_says_what_it_said(adata, tmp_path, n_types):
    arrays, machine, z = published(adata, list(adata.obs["cell_type"].cat.categories[:n_types]))
    np.savez(tmp_path / "model.npz", **arrays)
    sd.fm.convert_celltypist(tmp_path / "model.npz", tmp_path / "model", about="a test")
    query = adata[:, ::-1].copy()  # genes in another order
    sd.tl.annotate(query, method=tmp_path / "model", key_added="got")
    assert query.obs["got"].astype(str).tolist() == machine.predict(z).tolist()
    scores = machine.decision_function(z)
    scores = np.column_stack([-scores, scores]) if n_types == 2 else scores
    np.testing.assert_allclose(query.obsm["got_proba"], softmax(scores, axis=1), atol=1e-4)
    assert "got_novelty" not in query.obs
    assert sd.load(tmp_path / "model").card["about"] == "a test"


def test_missing_genes_count_as_the_mean_of_the_reference(adata, tmp_path):
    arrays, *_ = published(adata, list(adata.obs["cell_type"].cat.categories))
    np.savez(tmp_path / "model.npz", **arrays)
    model = sd.fm.convert_celltypist(tmp_path / "model.npz")
    query = adata[:, 10:].copy()
    query.layers["depth_kept"] = query.X
    with pytest.warns(UserWarning, match="10 of the 80 genes of the model are not in the object; they are left out"):
        sd.tl.annotate(query, method=model, key_added="got")
    x = query.X.toarray().astype(float)
    x = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
    z = np.minimum((x - arrays["mean"][10:]) / arrays["scale"][10:], 10)
    scores = z @ arrays["coef"][:, 10:].T + arrays["intercept"]
    np.testing.assert_allclose(query.obsm["got_proba"], softmax(scores, axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"coef": np.zeros((3, 79))}, r"`coef` .* has shape \(3, 79\), expected \(3, 80\)"),
        ({"scale": np.full(80, np.nan)}, "expected .* finite numbers"),
        ({"features": np.array(["a"] * 80)}, "occur|unique|duplicate"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(adata, tmp_path, change, said):
    arrays, *_ = published(adata, list(adata.obs["cell_type"].cat.categories))
    np.savez(tmp_path / "model.npz", **arrays | change)
    with pytest.raises(InputError, match=said):
        sd.fm.convert_celltypist(tmp_path / "model.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickles_are_never_opened(tmp_path):
    import pickle

    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"coef": 1}))
    with pytest.raises(InputError, match=r"is not a file that `numpy\.savez` wrote"):
        sd.fm.convert_celltypist(tmp_path / "model.pkl")
    np.savez(tmp_path / "objects.npz", coef=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"is not a file that `numpy\.savez` wrote"):
        sd.fm.convert_celltypist(tmp_path / "objects.npz")
    np.savez(tmp_path / "part.npz", coef=np.zeros(3))
    with pytest.raises(InputError, match="lacks intercept"):
        sd.fm.convert_celltypist(tmp_path / "part.npz")
