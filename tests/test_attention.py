"""The tool that maps attention among neighbours, against the attention of all pairs, planted pairs and chance."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scdance as sd
from scdance._checks import InputError, MissingKeyError
from scdance._core.read import read
from scdance.graph import spatial, tiles
from scdance.train import Reader

KNOBS: dict[str, Any] = {
    "hidden": 32, "n_layers": 2, "n_latent": 8, "n_components": 4, "n_top_genes": None, "batch_size": 60, "steps": 40,
    "lr": 3e-3, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def _fields() -> ad.AnnData:
    return sd.datasets.simulate_fov(n_obs=200, n_vars=80, n_types=3, n_response=3, random_state=1)


@pytest.fixture
def fields(_fields) -> ad.AnnData:
    """Two fields of view, whose coordinates both begin at 0."""
    return _fields.copy()


@pytest.fixture(scope="module")
def models(_fields) -> dict[bool, Any]:
    """A model that is told places, and one that is not."""
    blind = _fields.copy()
    del blind.obsm["spatial"]
    told = {True: _fields, False: blind}
    return {has: sd.fit("embed", each, method="cellplm", library_key="fov", **KNOBS) for has, each in told.items()}


@pytest.fixture(params=[True, False], ids=["places", "no places"])
def model(request, models) -> Any:
    found = models[request.param]
    assert found.sizes.has_places == request.param
    return found


def mapped(adata: ad.AnnData, model: Any, **how: Any) -> tuple[Any, Any]:
    """Weights and p-values of a run on a copy."""
    new = sd.tl.attention(adata, model, **{"library_key": "fov", "n_permutations": 9, **how}, copy=True)
    return new.obsp["cellplm_attention"], new.obsp["cellplm_attention_p"]


def notes(adata: ad.AnnData, key: str = "cellplm") -> dict[str, Any]:
    return adata.uns["scdance"]["attention"][key]["notes"]


def read_in(adata: ad.AnnData, model: Any) -> Any:
    codes = adata.obs["fov"].cat.codes.to_numpy(dtype=np.int32)
    return read(adata, model, coords=adata.obsm["spatial"], slices=(codes, ["fov1", "fov2"]))


@torch.no_grad()
def everyone(model: Any, cells: Any, rows: np.ndarray, block: int | None = None, x: Any = None) -> np.ndarray:
    """Weights of all pairs of a patch, (n, n)."""
    given, n = Reader(cells, torch.device("cpu")).read(rows), len(rows)
    flows = model.net_.encoder.eval().flows(given.x if x is None else x, given.places, given.genes)
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    whole = [flow.weights(*pairs).mean(dim=0).view(n, n).numpy() for flow in flows]
    return n * np.mean(whole if block is None else [whole[block]], axis=0)


def patches(cells: Any) -> list[np.ndarray]:
    return tiles(cells.coords, KNOBS["batch_size"], cells.slice)


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("how", [{}, {"block": 1}, {"relative": False}, {"radius": 14.0}], ids=str)
def test_weights_are_those_of_all_pairs_within_patches(fields, model, how):
    found, p = mapped(fields, model, **how)
    cells = read_in(fields, model)
    near = {"radius": how["radius"]} if "radius" in how else {"n_neighbors": 6}
    links = spatial(cells.coords, **near, slices=cells.slice) != 0
    expected = np.zeros(links.shape)
    for rows in patches(cells):
        whole = everyone(model, cells, rows, how.get("block"))
        if how.get("relative", True):
            whole = whole * whole.sum() / (whole.sum(axis=1, keepdims=True) * whole.sum(axis=0))
        expected[np.ix_(rows, rows)] = whole * links[rows][:, rows].toarray()
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-4)
    assert found.dtype == p.dtype == np.float32
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.indices, p.indices)
    assert (p.data >= np.float32(0.1)).all()
    assert (p.data <= 1).all()


def test_neighbours_that_are_not_read_together_are_counted(fields, models):
    sd.tl.attention(fields, models[False], library_key="fov", n_permutations=1)
    told, n = notes(fields), fields.obsp["cellplm_attention"].nnz
    assert told["n_pairs"] == 1200
    assert 0 < told["n_apart"] == 1200 - n
    assert "groups" not in told


def test_most_of_a_weight_says_of_single_cells_who_is_heard_by_all(fields, models):
    """What `relative` is for."""
    cells = read_in(fields, models[False])
    logs = np.log(everyone(models[False], cells, patches(cells)[0]))
    rest = logs - logs.mean(axis=1, keepdims=True) - logs.mean(axis=0) + logs.mean()
    assert rest.var() < 0.2 * logs.var()


def test_cells_without_counts_hear_nobody(fields, models):
    fields.X.data[fields.X.indptr[5] : fields.X.indptr[6]] = 0
    with pytest.warns(UserWarning, match="no counts"):
        found, _ = mapped(fields, models[False])
    assert found[5].nnz == found[:, [5]].nnz == 0
    assert found.shape == (200, 200)


# ------------------------------------------------------------------ chance


@torch.no_grad()
def test_a_shuffle_is_the_model_at_cells_in_other_places(fields, model):
    cells = read_in(fields, model)
    links = spatial(cells.coords, n_neighbors=6, slices=cells.slice)
    ends = np.repeat(np.arange(200), np.diff(links.indptr)), links.indices
    rows = patches(cells)[0]
    parts = list(model.attention(cells, links, np.random.default_rng(0), n_shuffles=2))
    mine = [each for each in parts if np.isin(ends[0][each.links], rows).all()]
    assert [each.shuffle for each in mine] == [0, 1, 2]
    x = Reader(cells, torch.device("cpu")).read(rows).x
    for each in mine:
        sink, source = (np.searchsorted(rows, end[each.links]) for end in ends)
        there = np.full(len(rows), -1)  # which cell stands at each place
        there[sink], there[source] = np.searchsorted(rows, each.sinks), np.searchsorted(rows, each.sources)
        assert sorted(there) == list(range(len(rows)))
        expected = everyone(model, cells, rows, x=x[there])[sink, source]
        np.testing.assert_allclose(each.weights, expected, rtol=1e-4)


def test_p_values_are_even_where_cells_lie_at_random(fields, model):
    rng = np.random.default_rng(3)
    fields.obsm["spatial"] = rng.random((200, 2)) * 100
    fields.obs["group"] = pd.Categorical(rng.integers(0, 3, 200).astype(str))
    new = sd.tl.attention(fields, model, n_permutations=19, groups_key="group", n_neighbors=8, copy=True)
    p = new.obsp["cellplm_attention_p"].data
    shares = np.bincount(np.rint(20 * p).astype(int), minlength=21)[1:] / len(p)
    assert abs(p.mean() - 0.525) < 0.05
    assert shares.min() > 0.015
    assert shares.max() < 0.1
    assert np.abs(notes(new)["groups"]["z"]).max() < 4


@pytest.mark.parametrize("relative", [False, True])
def test_planted_pairs_have_the_p_values_of_their_rank_among_all_pairs(fields, models, relative):
    fields, how = fields[:60].copy(), {"library_key": None, "relative": relative}
    fields.obsm["spatial"] = np.random.default_rng(0).random((60, 2))  # one patch: all are read together
    whole = mapped(fields, models[False], n_neighbors=59, n_permutations=1, **how)[0].toarray()
    both = np.minimum(whole, whole.T)
    for n in range(30):  # cells that hear each other most lie side by side, far from others
        pair = np.array(np.unravel_index(both.argmax(), both.shape))
        both[pair] = both[:, pair] = -1
        fields.obsm["spatial"][pair] = [[100.0 * n, 0], [100.0 * n + 1, 0]]
    weights, p = mapped(fields, models[False], n_neighbors=1, n_permutations=999, **how)
    ranks = (whole[whole > 0] >= 0.99999 * weights.data[:, None]).mean(axis=1)
    np.testing.assert_allclose(p.data, ranks, atol=0.06)  # four standard errors at 0.5
    assert p.data.min() < 0.03


def test_one_seed_gives_one_answer_and_another_one_other_p_values(fields, models):
    (a, p), (b, q), (c, r) = (mapped(fields, models[True], random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(p.data, q.data)
    np.testing.assert_array_equal(a.data, c.data)
    assert (p.data != r.data).any()


def test_permuting_cells_permutes_the_answer(fields, model):
    order = np.random.default_rng(0).permutation(200)
    found, expected = mapped(fields[order].copy(), model), mapped(fields, model)
    for mine, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.toarray(), whole.toarray()[np.ix_(order, order)], rtol=1e-4)


# ------------------------------------------------------------------ groups


def test_groups_are_compared_by_the_mean_weight_of_their_neighbours(fields, models):
    fields.obs["cell_type"] = fields.obs["cell_type"].astype(object)
    fields.obs.loc[fields.obs_names[:20], "cell_type"] = np.nan
    sd.tl.attention(fields, models[False], library_key="fov", groups_key="cell_type", n_permutations=29)
    links, types = fields.obsp["cellplm_attention"].tocoo(), fields.obs["cell_type"].to_numpy()
    frame = pd.DataFrame({"hears": types[links.row], "heard": types[links.col], "weight": links.data})
    expected = frame.groupby(["hears", "heard"])["weight"].agg(["size", "mean"])
    table = notes(fields)["groups"].set_index(["hears", "heard"])
    np.testing.assert_array_equal(table["n_edges"], expected["size"])
    np.testing.assert_allclose(table["weight"], expected["mean"], rtol=1e-5)
    assert len(table) == 9
    np.testing.assert_allclose(table["expected"], table["weight"], rtol=0.05)
    rank = np.rint(table["p"] * 30)
    np.testing.assert_allclose(rank, table["p"] * 30)
    assert rank.between(1, 30).all()
    assert np.corrcoef(table["z"], table["p"])[0, 1] < -0.8


def test_groups_that_are_rare_are_told(fields, models):
    fields.obs["one"] = np.where(np.arange(200) < 2, "few", "many")
    with pytest.warns(UserWarning, match="so rare"):
        sd.tl.attention(fields, models[False], library_key="fov", groups_key="one", n_permutations=9)
    assert len(notes(fields)["groups"]) <= 4


# ------------------------------------------------------------------ the object


def test_a_saved_model_gives_the_same_and_a_file_holds_it(fields, models, tmp_path):
    models[True].save(tmp_path / "model")
    sd.tl.attention(fields, tmp_path / "model", library_key="fov", groups_key="cell_type", n_permutations=9)
    expected = mapped(fields, models[True])
    fields.write_h5ad(tmp_path / "new.h5ad")
    again = ad.read_h5ad(tmp_path / "new.h5ad")
    for name, whole in zip(("cellplm_attention", "cellplm_attention_p"), expected, strict=True):
        np.testing.assert_array_equal(again.obsp[name].toarray(), whole.toarray())
    pd.testing.assert_frame_equal(notes(again)["groups"], notes(fields)["groups"], check_dtype=False)
    sd.tl.attention(again, str(tmp_path / "model"), library_key="fov", n_permutations=9)  # its own slots are replaced
    assert "groups" not in notes(again)


def test_a_table_of_spatial_data_gets_the_map(fields, models):
    from spatialdata import SpatialData

    expected = mapped(fields, models[False])
    sdata = SpatialData(tables={"table": fields})
    sd.tl.attention(sdata, models[False], library_key="fov", n_permutations=9)
    np.testing.assert_array_equal(sdata.tables["table"].obsp["cellplm_attention_p"].data, expected[1].data)


def test_a_method_of_another_task_with_such_a_network_is_taken(fields):
    made = sd.fit("impute", fields, method="cellplm", library_key="fov", **{**KNOBS, "steps": 2})
    found, _ = mapped(fields, made, n_permutations=1)
    assert found.nnz > 1000


def test_a_method_whose_attention_is_a_knob_is_refused(fields):
    fitted = sd.fit("impute", fields, method="spaformer", hidden=32, n_layers=1, steps=2, progress=False)
    with pytest.raises(InputError, match="SpaFormer has no attention among cells to look at"):
        sd.tl.attention(fields, fitted)


def test_what_cannot_be_is_refused_and_the_object_stays(fields, models, tmp_path):
    before = fields.copy()
    made = models[False]
    floor = sd.fit("embed", fields, method="pca", n_components=5)
    wrong = [
        ({"model": "cellplm"}, InputError, "no folder"),
        ({"model": type(made)}, InputError, "no attention among cells"),
        ({"model": floor}, InputError, "no attention among cells"),
        ({"model": made.unfitted()}, InputError, "not fitted"),
        ({"block": 2}, InputError, "2 layers"),
        ({"block": -1}, InputError, "block"),
        ({"n_permutations": 0}, InputError, "n_permutations"),
        ({"n_neighbors": 0}, InputError, "n_neighbors"),
        ({"radius": -1.0}, InputError, "radius"),
        ({"radius": 1e-6}, InputError, "nothing to weigh"),
        ({"groups_key": "typo"}, MissingKeyError, "`groups_key=`"),
        ({"groups_key": "total"}, InputError, "`groups_key=`"),
        ({"library_key": "typo"}, MissingKeyError, "library_key"),
        ({"spatial_key": "typo"}, MissingKeyError, "attention needs the coordinates"),
        ({"key_added": "a/b"}, InputError, "key_added"),
        ({"random_state": -1}, InputError, "random_state"),
    ]
    fields.obs["total"] = before.obs["total"] = np.arange(200.0)
    for how, error, text in wrong:
        with pytest.raises(error, match=text):
            sd.tl.attention(fields, **{"model": made, "n_permutations": 1, **how})
    before.obsp["cellplm_attention"] = fields.obsp["cellplm_attention"] = spatial(fields.obsm["spatial"], n_neighbors=1)
    with pytest.raises(InputError, match="key_added"):
        sd.tl.attention(fields, made, n_permutations=1)
    assert list(fields.obsp) == ["cellplm_attention"]
    assert "scdance" not in fields.uns
    pd.testing.assert_frame_equal(fields.obs, before.obs)


def test_a_stop_in_between_leaves_the_object_as_it_was(fields, models, monkeypatch):
    def stopped(*args, **knobs):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(models[False]), "attention", stopped)
    with pytest.raises(KeyboardInterrupt):
        sd.tl.attention(fields, models[False], library_key="fov")
    assert not list(fields.obsp)
    assert "scdance" not in fields.uns
