"""The tools that make annotations of annotations, as a user calls them, on cases that can be counted by hand."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError

TREE = {"CD4 T": "T", "CD8 T": "T", "T": "lymphoid", "B": "lymphoid"}


def annotated(proba, names=("a", "b", "c"), key="mine", labels=None, adata=None):
    """An object as a run of `annotate` leaves it; labels are the likeliest types unless given."""
    proba = np.asarray(proba, dtype=np.float32)
    if adata is None:
        adata = ad.AnnData(np.ones((len(proba), 2), dtype=np.float32))
        adata.obs_names = [f"c{i}" for i in range(len(proba))]
    labels = np.array(names)[proba.argmax(axis=1)] if labels is None else labels
    categories = [*names, *({"unknown"} & {*labels} - {*names})]
    adata.obs[key] = pd.Categorical(labels, categories=categories)
    adata.obs[f"{key}_score"] = proba.max(axis=1)
    adata.obsm[f"{key}_proba"] = pd.DataFrame(proba, index=adata.obs_names, columns=list(names))
    return adata


def certain(labels, names=("a", "b", "c"), **more):
    """Cells of which each has one type for sure; of those without, all types are alike."""
    proba = [[float(name == label) for name in names] if label in names else [1 / len(names)] * 3 for label in labels]
    return annotated(proba, names, labels=labels, **more)


def record(adata, key):
    return adata.uns["scdance"]["annotate"][key]


def same(one, other):
    """Whether two objects hold the same in every part that a tool may write."""
    pd.testing.assert_frame_equal(one.obs, other.obs)
    assert sorted(one.obsm) == sorted(other.obsm) and sorted(one.uns) == sorted(other.uns)
    for name in one.obsm:
        np.testing.assert_array_equal(one.obsm[name], other.obsm[name])
    return True


@pytest.fixture
def voters():
    """Two groups, of which the first has most of a, the second a tie of "b" and "c" and an unknown; one cell alone."""
    adata = certain(["a", "a", "b", "c", "b", "unknown", None, "c"])
    adata.obs["groups"] = pd.Categorical([*"xxxyyyy", None])
    return adata


@pytest.fixture
def lymph():
    """Cells that are sure, torn between kinds of T, between B and T, and between all."""
    rows = [[0.9, 0.05, 0.03, 0.02], [0.5, 0.4, 0.05, 0.05], [0.4, 0.1, 0.4, 0.1], [0.3, 0.2, 0.1, 0.4]]
    return annotated(rows, ("CD4 T", "CD8 T", "B", "mono"))


@pytest.fixture
def two():
    """Two annotations: they agree, disagree, only the second knows "d", only the first has a say, none has."""
    first = [[0.8, 0.2, 0], [0.9, 0.1, 0], [0.2, 0.3, 0.5], [0.1, 0.9, 0], [1 / 3] * 3]
    adata = annotated(first, key="one", labels=["a", "a", "c", "b", None])
    second = [[0.6, 0.4], [0.1, 0.9], [0.1, 0.9], [0.5, 0.5], [0.5, 0.5]]
    return annotated(second, ("a", "d"), key="two", labels=["a", "d", "d", None, None], adata=adata)


# vote


def test_each_cell_gets_the_type_of_most_of_its_group(voters):
    sd.tl.vote(voters, "mine", "groups")
    found = voters.obs["mine_voted"].astype(object).where(voters.obs["mine_voted"].notna(), None)
    assert found.tolist() == ["a", "a", "a", "b", "b", "b", None, "c"]
    np.testing.assert_allclose(voters.obs["mine_voted_score"], [2 / 3] * 3 + [0.5] * 3 + [0, 1])
    expected = [[2 / 3, 1 / 3, 0]] * 3 + [[0, 0.5, 0.5]] * 3 + [[1 / 3] * 3, [0, 0, 1]]
    np.testing.assert_allclose(voters.obsm["mine_voted_proba"], expected, rtol=1e-6)
    assert record(voters, "mine_voted")["notes"]["n_groups"] == 2


def test_groups_without_a_majority_are_unknown(voters):
    sd.tl.vote(voters, "mine", "groups", least=0.6)
    assert voters.obs["mine_voted"].astype(str).tolist() == ["a", "a", "a", *["unknown"] * 3, "nan", "c"]
    sd.tl.vote(voters, "mine", "groups", least=0.5)
    assert voters.obs["mine_voted"].astype(str).tolist()[3:6] == ["b"] * 3


def test_unknown_cells_have_no_vote_but_get_one():
    adata = certain(["unknown", "unknown", "unknown", "a"])
    adata.obs["g"] = ["x"] * 4
    sd.tl.vote(adata, "mine", "g")
    assert (adata.obs["mine_voted"] == "a").all() and (adata.obs["mine_voted_score"] == 1).all()


def test_a_group_of_unknown_cells_stays_unknown():
    adata = certain(["unknown", "unknown", "a"])
    adata.obs["g"] = [1, 1, 2]
    sd.tl.vote(adata, "mine", "g")
    assert adata.obs["mine_voted"].tolist() == ["unknown", "unknown", "a"]
    np.testing.assert_allclose(adata.obsm["mine_voted_proba"], [[1 / 3] * 3] * 2 + [[1, 0, 0]], rtol=1e-6)


def test_where_all_cells_are_unknown_they_stay_so():
    adata = certain(["unknown", "unknown"])
    adata.obs["g"] = "x"
    sd.tl.vote(adata, "mine", "g")
    assert adata.obs["mine_voted"].tolist() == ["unknown"] * 2
    del adata.obsm["mine_proba"]
    adata.obs["mine"] = pd.Categorical(["unknown"] * 2)
    with pytest.raises(InputError, match="nothing to vote on"):
        sd.tl.vote(adata, "mine", "g", key_added="other")


def test_a_type_of_the_reference_that_is_called_unknown_votes():
    adata = annotated([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], ("unknown", "a"))
    adata.obs["g"] = "x"
    sd.tl.vote(adata, "mine", "g")
    assert adata.obs["mine_voted"].tolist() == ["unknown"] * 3
    np.testing.assert_allclose(adata.obs["mine_voted_score"], 2 / 3)


def test_missing_labels_are_no_type_that_is_called_nan():
    adata = certain(["nan", None, None, "a", "a"], names=("a", "b", "nan"))
    adata.obs["g"] = "x"
    sd.tl.vote(adata, "mine", "g")
    np.testing.assert_allclose(adata.obsm["mine_voted_proba"].iloc[0], [2 / 3, 0, 1 / 3], rtol=1e-6)


def test_without_groups_similar_cells_vote_and_mend_wrong_labels():
    adata = sd.datasets.toy_clusters(n_obs=200, n_vars=80, k=3, n_de=20)
    truth, rng = adata.obs["cell_type"].astype(str).to_numpy(), np.random.default_rng(0)
    names = sorted(set(truth))
    noisy = np.where(rng.random(200) < 0.2, rng.choice(names, 200), truth)
    certain(noisy.tolist(), names, adata=adata)
    sd.tl.vote(adata, "mine")
    assert (adata.obs["mine_voted"] == truth).mean() > max((noisy == truth).mean() + 0.05, 0.95)
    assert record(adata, "mine_voted")["notes"]["n_groups"] > 3
    assert record(adata, "mine_voted")["params"]["groups"] == "leiden"
    first = adata.obs["mine_voted"].copy()
    sd.tl.vote(adata, "mine")
    assert (adata.obs["mine_voted"] == first).all()


@pytest.mark.parametrize("n_obs", [2, 50])
def test_of_few_cells_each_votes_for_itself(n_obs):
    adata = certain((["a", "b", "c"] * 17)[:n_obs])
    sd.tl.vote(adata, "mine")
    assert (adata.obs["mine_voted"].astype(str) == adata.obs["mine"].astype(str)).all()
    assert (adata.obs["mine_voted_score"] == 1).all()


def test_any_column_with_types_can_vote():
    adata = ad.AnnData(np.ones((3, 2), dtype=np.float32), obs=pd.DataFrame({"typed": [*"aab"], "g": 1}, index=[*"xyz"]))
    sd.tl.vote(adata, "typed", "g")
    assert adata.obs["typed_voted"].tolist() == ["a"] * 3


def test_a_vote_can_follow_a_back_off(lymph):
    lymph.obs["g"] = "x"
    sd.tl.back_off(lymph, "mine", TREE)
    sd.tl.vote(lymph, "mine_back_off", "g")
    assert (lymph.obs["mine_back_off_voted"] == "CD4 T").all()


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_shares_of_the_votes_lie_between_0_and_1(voters, least):
    with pytest.raises(InputError, match="least"):
        sd.tl.vote(voters, "mine", "groups", least=least)


def test_a_missing_column_of_groups_is_named(voters):
    before = voters.copy()
    with pytest.raises(MissingKeyError, match=r"No 'group' in `adata.obs`.*`groups=`"):
        sd.tl.vote(voters, "mine", "group")
    assert same(voters, before)


# back_off


def test_cells_in_doubt_are_called_by_the_narrowest_group_that_is_probable(lymph):
    sd.tl.back_off(lymph, "mine", TREE)
    assert lymph.obs["mine_back_off"].tolist() == ["CD4 T", "T", "lymphoid", "unknown"]
    np.testing.assert_allclose(lymph.obs["mine_back_off_score"], [0.9, 0.9, 0.9, 0.4], rtol=1e-6)
    notes = record(lymph, "mine_back_off")["notes"]
    assert (notes["n_at_height"].tolist(), notes["n_unknown"]) == ([1, 1, 1], 1)
    assert "mine_back_off_proba" not in lymph.obsm


def test_less_is_said_the_more_is_asked(lymph):
    called = {}
    for least in (0.3, 0.5, 0.91):
        sd.tl.back_off(lymph, "mine", TREE, least=least)
        called[least] = lymph.obs["mine_back_off"].tolist()
    assert called[0.3] == ["CD4 T", "CD4 T", "CD4 T", "mono"]
    assert called[0.5] == ["CD4 T", "CD4 T", "T", "unknown"]
    assert called[0.91] == ["T", "lymphoid", "unknown", "unknown"]


def test_a_group_of_all_types_is_certain_whatever_the_rounding():
    rng = np.random.default_rng(0)
    adata = annotated(rng.dirichlet(np.ones(9), 200), [*"abcdefghi"])
    sd.tl.back_off(adata, "mine", dict.fromkeys("abcdefghi", "cell"), least=1.0)
    assert (adata.obs["mine_back_off"] == "cell").all()
    assert adata.obs["mine_back_off_score"].max() <= 1


def test_a_type_can_be_the_group_of_others():
    adata = annotated([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], ("T", "CD4 T", "B"))
    sd.tl.back_off(adata, "mine", {"CD4 T": "T"})
    assert adata.obs["mine_back_off"].tolist() == ["T", "B"]
    np.testing.assert_allclose(adata.obs["mine_back_off_score"], [0.8, 0.7], rtol=1e-6)


def test_cells_without_a_type_are_left_without():
    adata = annotated([[0.9, 0.1], [0.5, 0.5]], ("a", "b"), labels=["a", None])
    sd.tl.back_off(adata, "mine", {"a": "g"})
    assert adata.obs["mine_back_off"].isna().tolist() == [False, True]


@pytest.mark.parametrize("tree", [{"a": "a"}, {"a": "x", "x": "y", "y": "a"}, {"a": "x", "x": "y", "y": "x"}])
def test_a_tree_that_goes_in_a_circle_is_refused(tree):
    adata = annotated(np.eye(2), ("a", "b"))
    before = adata.copy()
    with pytest.raises(InputError, match=r"circle: a → .*one larger group"):
        sd.tl.back_off(adata, "mine", tree)
    assert same(adata, before)


@pytest.mark.parametrize("tree", [{}, {"cd4": "T"}])
def test_a_tree_without_any_of_the_types_is_refused(lymph, tree):
    with pytest.raises(InputError, match=r"No type of 'mine' \(CD4 T, .*is in the tree"):
        sd.tl.back_off(lymph, "mine", tree)


@pytest.mark.parametrize("least", [0, 1.5, float("nan")])
def test_a_probability_is_asked_for(lymph, least):
    with pytest.raises(InputError, match="least"):
        sd.tl.back_off(lymph, "mine", TREE, least=least)


def test_numbers_are_names_too():
    adata = annotated([[0.5, 0.4, 0.1]], ("1", "4", "7"))
    sd.tl.back_off(adata, "mine", {1: "lymphoid", 4: "lymphoid"})
    assert adata.obs["mine_back_off"].tolist() == ["lymphoid"]


# consensus_labels


def test_probabilities_are_averaged_over_those_that_have_a_say(two):
    sd.tl.consensus_labels(two, ["one", "two"])
    found = two.obs["consensus_labels"].astype(object).where(two.obs["consensus_labels"].notna(), None)
    assert found.tolist() == ["a", "a", "d", "b", None]
    expected = [[0.7, 0.1, 0, 0.2], [0.5, 0.05, 0, 0.45], [0.15, 0.15, 0.25, 0.45], [0.1, 0.9, 0, 0], [0.25] * 4]
    np.testing.assert_allclose(two.obsm["consensus_labels_proba"], expected, rtol=1e-6)
    assert list(two.obsm["consensus_labels_proba"]) == ["a", "b", "c", "d"]
    np.testing.assert_allclose(two.obs["consensus_labels_score"], [0.7, 0.5, 0.45, 0.9, 0], rtol=1e-6)


def test_disagreement_is_the_share_that_says_another_type(two):
    sd.tl.consensus_labels(two, ["one", "two"])
    np.testing.assert_allclose(two.obs["consensus_labels_disagreement"], [0, 0.5, 0.5, 0, 0])


def test_agreement_is_counted_over_cells_that_both_have_labelled(two):
    annotated(np.eye(5)[:, :3], key="third", labels=["a", "b", None, None, None], adata=two)
    sd.tl.consensus_labels(two, ["one", "two", "third"])
    found = record(two, "consensus_labels")["notes"]["agreement"]
    np.testing.assert_allclose(found, [[1, 1 / 3, 0.5], [1 / 3, 1, 0.5], [0.5, 0.5, 1]])
    assert two.obs["consensus_labels_disagreement"].iloc[2] == 0.5  # of the two that have a say


def test_improbable_cells_are_unknown(two):
    sd.tl.consensus_labels(two, ["one", "two"], least=0.6)
    assert two.obs["consensus_labels"].astype(str).tolist() == ["a", "unknown", "unknown", "b", "nan"]


def test_the_order_of_the_annotations_changes_no_type(two):
    sd.tl.consensus_labels(two, ["one", "two"])
    sd.tl.consensus_labels(two, ["two", "one"], key_added="other")
    assert (two.obs["other"].astype(str) == two.obs["consensus_labels"].astype(str)).all()
    pd.testing.assert_frame_equal(two.obsm["other_proba"][[*"abcd"]], two.obsm["consensus_labels_proba"])


@pytest.mark.parametrize("keys", ["one", ["one"], []])
def test_one_annotation_is_no_consensus(two, keys):
    with pytest.raises(InputError, match="at least two annotations"):
        sd.tl.consensus_labels(two, keys)


def test_a_run_that_is_not_there_is_named_with_those_that_are(two):
    sd.tl.consensus_labels(two, ["one", "two"], key_added="both")
    before = two.copy()
    with pytest.raises(MissingKeyError, match=r"No 'three_proba' in `adata.obsm`.*Runs of it: both"):
        sd.tl.consensus_labels(two, ["one", "three"])
    assert same(two, before)


def test_probabilities_without_names_are_refused(two):
    two.obsm["two_proba"] = two.obsm["two_proba"].to_numpy()
    with pytest.raises(InputError, match="ndarray, but must be a DataFrame"):
        sd.tl.consensus_labels(two, ["one", "two"])


# All of them

CALLS = {
    "mine_voted": lambda adata, **more: sd.tl.vote(adata, "mine", "g", **more),
    "mine_back_off": lambda adata, **more: sd.tl.back_off(adata, "mine", {"a": "ab", "b": "ab"}, **more),
    "consensus_labels": lambda adata, **more: sd.tl.consensus_labels(adata, ["mine", "other"], **more),
}
tools = pytest.mark.parametrize("key", list(CALLS))


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    adata = annotated(rng.dirichlet(np.ones(3), 12))
    annotated(rng.dirichlet(np.ones(3), 12), key="other", adata=adata)
    adata.obs["g"] = np.arange(12) % 3
    return adata


@tools
def test_a_copy_is_returned_on_request(adata, key):
    before = adata.copy()
    made = CALLS[key](adata, copy=True)
    assert same(adata, before) and key in made.obs
    assert CALLS[key](adata) is None
    assert same(adata, made)


@tools
def test_results_survive_a_file(adata, key, tmp_path):
    CALLS[key](adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert same(adata, again)
    CALLS[key](again)
    assert same(adata, again)


@tools
def test_a_second_run_overwrites_its_own_slots_only(adata, key):
    adata.obs["mine_voted_notes"] = "my own"
    CALLS[key](adata)
    first = adata.copy()
    CALLS[key](adata)
    assert same(adata, first)
    assert (adata.obs["mine_voted_notes"] == "my own").all()


@tools
def test_a_column_of_the_user_is_left_alone(adata, key):
    adata.obs[key] = "my own"
    before = adata.copy()
    with pytest.raises(InputError, match="was not written by scdance"):
        CALLS[key](adata)
    assert same(adata, before)
    CALLS[key](adata, key_added="free")
    assert "free" in adata.obs


@tools
def test_an_error_while_writing_leaves_the_object_as_it_was(adata, key, monkeypatch):
    from scdance._core import write

    before = adata.copy()
    monkeypatch.setattr(write, "plain", lambda record: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CALLS[key](adata)
    assert same(adata, before)


@tools
def test_a_missing_annotation_is_named(adata, key):
    del adata.obsm["mine_proba"], adata.obs["mine"]
    with pytest.raises(MissingKeyError, match=r"No 'mine(_proba)?' in `adata"):
        CALLS[key](adata)


@tools
def test_true_names_of_types_come_back_from_columns_that_cannot_hold_them(key):
    cells = sd.datasets.toy_clusters(n_obs=160, n_vars=60, k=3, n_de=20)
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories(["T/NK", "B", "mono/DC"])
    ref, query = cells[:120].copy(), cells[120:].copy()
    for name in ("mine", "other"):
        with pytest.warns(UserWarning, match="HDF5 does not take"):
            sd.tl.annotate(query, ref, method="knn", labels_key="cell_type", key_added=name)
    query.obs["g"] = query.obs["cell_type"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scdance._core.write.warn", lambda message: None)
        if key == "mine_back_off":
            sd.tl.back_off(query, "mine", {"T/NK": "lymphoid", "B": "lymphoid"}, least=0.6)
        else:
            CALLS[key](query)
    assert set(query.obs[key].cat.categories) - {"lymphoid", "unknown"} == {"T/NK", "B", "mono/DC"}
    assert (query.obs[key].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9
