"""From golden.toml to grids."""

from pathlib import Path

import pytest

from scdance import datasets
from scdance._checks import InputError
from scdance._core import registry
from scdance.bench import plan

TEXT = """
[cluster.kmeans]
toy = 0.9
variants = { "kmeans" = {}, "kmeans z-scored" = { scale = true } }
[cluster.kmeans.real.worm_neuron]
[cluster.kmeans.real.10x_pbmc]
paper = 0.5
[cluster.leiden]
toy = 0.9
[cluster.leiden.real.worm_neuron]
[cluster.leiden.real.10x_pbmc]
[cluster.slow.real.10x_pbmc]
[cluster.toy_only]
toy = 0.9
"""


def test_a_golden_file_becomes_variants_on_the_data_sets_of_each_method(tmp_path: Path):
    (tmp_path / "golden.toml").write_text(TEXT)
    assert plan(tmp_path / "golden.toml") == [
        {
            "task": "cluster",
            "methods": {
                "kmeans": {"method": "kmeans"},
                "kmeans z-scored": {"method": "kmeans", "scale": True},
                "leiden": {"method": "leiden"},
            },
            "datasets": ["worm_neuron", "10x_pbmc"],
        },
        {"task": "cluster", "methods": {"slow": {"method": "slow"}}, "datasets": ["10x_pbmc"]},
    ]


def test_a_missing_or_broken_file_is_one_sentence(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no file .*golden.toml"):
        plan(tmp_path / "golden.toml")
    (tmp_path / "golden.toml").write_text("[cluster")
    with pytest.raises(InputError, match="is not TOML"):
        plan(tmp_path / "golden.toml")


def test_our_own_plan_has_a_default_row_for_every_method_on_known_data():
    grids = plan(Path(__file__).parents[1] / "golden.toml")
    for task in {grid["task"] for grid in grids}:
        variants = [own for grid in grids if grid["task"] == task for own in grid["methods"].values()]
        others = [registry.get(task, name) for name in registry.names(task) if {"method": name} not in variants]
        # no set has an image, and not everybody has other people's packages
        assert [cls.name for cls in others if "image" not in cls.uses and not cls.route] == []
    for grid in grids:
        assert set(grid["datasets"]) <= set(datasets.names(grid["task"]))


def test_a_name_that_two_methods_give_is_refused(tmp_path: Path):
    (tmp_path / "golden.toml").write_text(TEXT.replace('"kmeans z-scored"', '"leiden"'))
    with pytest.raises(InputError, match="the variant 'leiden' to kmeans and leiden"):
        plan(tmp_path / "golden.toml")


def test_presets_stand_in_place_of_the_variants_for_the_data_they_are_meant_for(tmp_path):
    path = tmp_path / "golden.toml"
    path.write_text("[cluster.scdeepcluster]\n[cluster.scdeepcluster.real.worm_neuron]\n[cluster.kmeans]\n"
                    "[cluster.kmeans.real.worm_neuron]\n")  # fmt: skip
    (grid,) = plan(path, presets=True)
    names = ["scdeepcluster paper", "scdeepcluster dance", "scdeepcluster worm_neuron"]
    assert grid["methods"] == {name: dict(zip(("method", "preset"), name.split(), strict=True)) for name in names}
    (other,) = plan(path, presets=True, datasets=["pbmc_demo"])
    assert [each["preset"] for each in other["methods"].values()] == ["paper", "dance", "10x_pbmc"]


ON = """
[impute.knn]
[impute.knn.real.a_thinning]
[impute.knn.real.a_uniform]
[impute.gene_mean]
variants = { "gene_mean" = {}, "told" = { output = "log1p_nonzero", on = ["a_uniform", "b_uniform"] } }
[impute.gene_mean.real.a_thinning]
[impute.gene_mean.real.a_uniform]
"""


def test_a_variant_runs_on_the_data_sets_that_it_is_meant_for(tmp_path: Path):
    path = tmp_path / "golden.toml"
    path.write_text(ON)
    plain = {"knn": {"method": "knn"}, "gene_mean": {"method": "gene_mean"}}
    told = {"told": {"method": "gene_mean", "output": "log1p_nonzero"}}
    assert plan(path) == [
        {"task": "impute", "methods": plain, "datasets": ["a_thinning", "a_uniform"]},
        {"task": "impute", "methods": told, "datasets": ["a_uniform", "b_uniform"]},
    ]
    assert plan(path, datasets=["other_thinning", "b_uniform"]) == [
        {"task": "impute", "methods": plain, "datasets": ["other_thinning", "b_uniform"]},
        {"task": "impute", "methods": told, "datasets": ["b_uniform"]},
    ]
    assert plan(path, datasets=["a_thinning"]) == [{"task": "impute", "methods": plain, "datasets": ["a_thinning"]}]
    assert plan(path, datasets=["worm_neuron"]) == []  # which only other tasks can score
