"""Pre-training on files, what begins with its result, and the conversion of published weights."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

import scdance as sd
from scdance._checks import InputError, MissingPackageError
from scdance.fm._convert_cellplm import layout
from scdance.pp import Transformed, _rows

TINY = {"hidden": 32, "n_layers": 1, "n_latent": 8, "n_components": 4, "batch_size": 64, "lr": 3e-3, "progress": False}
CONFIG = {
    "enc_hid": 16, "enc_layers": 2, "latent_mod": "gmvae", "post_latent_dim": 4, "num_clusters": 3, "dec_hid": 16,
    "dec_layers": 2, "model_dropout": 0.2, "out_dim": 90, "batch_num": 5, "dataset_num": 2,
    "gene_list": [f"gene_{i}" for i in range(90)],
}  # fmt: skip
PUBLISHED = {
    **CONFIG, "enc_hid": 1024, "enc_layers": 4, "post_latent_dim": 512, "num_clusters": 16, "dec_hid": 1024,
    "out_dim": 19_374, "batch_num": 12_596, "dataset_num": 484,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three data sets of the same types, each of which lacks some genes; the samples of the first are named."""
    folder, out = tmp_path_factory.mktemp("files"), []
    whole = sd.datasets.toy_clusters(n_obs=900, n_vars=300, k=4, batches=3, random_state=1)
    for i in range(3):
        part = whole[i::3, np.arange(300) % 10 != i].copy()
        out.append(folder / f"part_{i}.h5ad")
        part.write_h5ad(out[-1])
    return out


@pytest.fixture(scope="module")
def model(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("model") / "saved"
    made = sd.fm.pretrain(files, folder, config="tiny", sample_key={"part_0": "batch"}, steps=400, about="toys", **TINY)
    return made, folder


def test_hidden_counts_of_cells_that_did_not_train_are_restored(model):
    made, _ = model
    assert made.notes_["hidden_deviance"] < 0.8  # of that of the mean of each gene
    assert made.notes_["hidden_mse"] < 1
    assert made.notes_["files"]["n_genes"].tolist() == [270, 270, 270]
    assert made.notes_["files"]["n_samples"].tolist() == [3, 1, 1]
    assert made.sizes.covariates == (5, 3)


def test_cells_of_another_data_set_are_placed_by_type_without_training(model):
    made, folder = model
    new = sd.datasets.toy_clusters(n_obs=900, n_vars=300, k=4, batches=3, random_state=1)[::7].copy()
    truth = new.obs.pop("cell_type")
    sd.tl.embed(new, method=folder)
    assert sd.metrics.kmeans_ari(truth, new.obsm["X_cellplm"]) > 0.9
    sd.tl.embed(new, method=made, key_added="same")
    np.testing.assert_array_equal(new.obsm["X_cellplm"], new.obsm["X_same"])
    assert sd.load(folder).notes_["about"] == "toys"


def test_no_file_is_ever_in_memory_as_a_whole(files, monkeypatch):
    longest, take = [], Transformed.__getitem__

    def watched(self, rows):
        block = take(self, rows)
        longest.append(block.shape[0])
        return block

    monkeypatch.setattr(Transformed, "__getitem__", watched)
    monkeypatch.setattr(_rows, "MOST", 64)
    sd.fm.pretrain(files, config="tiny", steps=3, **TINY)
    assert 0 < max(longest) <= 64


def test_files_and_objects_in_memory_give_the_same(files):
    a = sd.fm.pretrain(files, config="tiny", steps=6, **TINY)
    b = sd.fm.pretrain({path.stem: ad.read_h5ad(path) for path in files}, config="tiny", steps=6, **TINY)
    for name, value in a.net_.state_dict().items():
        assert torch.equal(value, b.net_.state_dict()[name]), name


def files_genes(files: list[Path]) -> list[str]:
    return ad.read_h5ad(files[0], backed="r").var_names.tolist()


class Killed(Exception):
    pass


def test_a_training_that_was_killed_goes_on_to_the_same_result(files, monkeypatch, tmp_path):
    from scdance._core.registry import get

    cls, calls = get("embed", "cellplm"), []
    whole = sd.fm.pretrain(files, config="tiny", epochs=7, **TINY)
    loss = cls.loss

    def stops(self, *given):
        calls.append(1)
        if len(calls) == 90:  # after the checkpoint of the fifth epoch
            raise Killed
        return loss(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "loss", stops)
        with pytest.raises(Killed):
            sd.fm.pretrain(files, config="tiny", epochs=7, checkpoint=tmp_path, **TINY)
    assert list(tmp_path.iterdir())
    rest = sd.fm.pretrain(files, config="tiny", epochs=7, checkpoint=tmp_path, **TINY)
    for name, value in whole.net_.state_dict().items():
        assert torch.equal(value, rest.net_.state_dict()[name]), name
    with pytest.raises(InputError, match="another call"):
        sd.fm.pretrain(files, config="tiny", epochs=9, checkpoint=tmp_path, **TINY)


def test_the_clock_ends_a_training_and_says_so(files):
    made = sd.fm.pretrain(files, config="tiny", epochs=50, max_minutes=1e-6, **TINY)
    assert made.epochs_ == 1
    assert "after 1e-06 minutes" in made.stopped_


def test_a_training_that_ran_out_of_time_goes_on(files, tmp_path):
    first = sd.fm.pretrain(files, config="tiny", epochs=3, max_minutes=1e-6, checkpoint=tmp_path, **TINY)
    rest = sd.fm.pretrain(files, config="tiny", epochs=3, checkpoint=tmp_path, **TINY)
    assert (first.epochs_, rest.epochs_) == (1, 3)
    whole = sd.fm.pretrain(files, config="tiny", epochs=3, **TINY)
    assert all(torch.equal(value, rest.net_.state_dict()[name]) for name, value in whole.net_.state_dict().items())


def test_a_place_that_cannot_take_the_model_is_refused_before_training(files, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not a saved method of scdance"):
        sd.fm.pretrain([*files, tmp_path / "absent.h5ad"], tmp_path, config="tiny", steps=5, **TINY)


def test_samples_of_a_zarr_are_those_of_the_same_h5ad(files, tmp_path):
    with warnings.catch_warnings(action="ignore"):  # anndata: formats change
        ad.read_h5ad(files[0]).write_zarr(tmp_path / "part_0.zarr")
    one, other = (
        sd.fm.pretrain([file], config="tiny", steps=5, sample_key="batch", **TINY)
        for file in (files[0], tmp_path / "part_0.zarr")
    )
    assert one.batches_ == other.batches_
    assert all(torch.equal(value, other.net_.state_dict()[name]) for name, value in one.net_.state_dict().items())


def test_fields_given_as_samples_or_as_slices_are_placed_alike():
    tissue = sd.datasets.simulate_fov(n_obs=200, n_vars=60, n_fovs=2)
    tissue.obsm["spatial"] = tissue.obsm["spatial"] + tissue.obs["fov"].cat.codes.to_numpy()[:, None] * [[5000.0, 0.0]]
    made = sd.fm.pretrain([tissue], config="tiny", sample_key="fov", steps=20, **TINY)
    one, other = (
        sd.tl.embed(tissue, method=made, copy=True, **{key: "fov"}).obsm["X_cellplm"]
        for key in ("batch_key", "library_key")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_wrong_files_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="no files"):
        sd.fm.pretrain([])
    with pytest.raises(InputError, match=r"no file .*absent\.h5ad"):
        sd.fm.pretrain([tmp_path / "absent.h5ad"])
    adata = ad.read_h5ad(files[0])
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "columns.h5ad")
    with pytest.raises(InputError, match=r"by columns \(CSC\).*tocsr"):
        sd.fm.pretrain([tmp_path / "columns.h5ad"])
    other = ad.read_h5ad(files[0])
    other.var_names = [f"other_{i}" for i in range(other.n_vars)]
    with pytest.raises(InputError, match="name genes differently"):
        sd.fm.pretrain([files[0], other], min_files=2)
    with pytest.raises(InputError, match="`sample_key` names part_9"):
        sd.fm.pretrain(files, sample_key={"part_9": "batch"})
    few = other[:, :60].copy()
    few.var_names = files_genes(files)[:60]
    with pytest.warns(UserWarning, match="few have fewer than 50"):
        made = sd.fm.pretrain(
            {"few": few[:, :40].copy(), "many": files[0]}, min_files=1, steps=2, config="tiny", **TINY
        )
    assert made.notes_["files"]["file"].tolist() == ["many"]
    with pytest.raises(InputError, match="no file has"):
        sd.fm.pretrain(files, genes=["gene_1", "nothing"])


def test_cells_with_hardly_a_gene_of_the_model_are_refused(model):
    other = sd.datasets.toy_clusters(n_obs=50, n_vars=300)
    other.var_names = [f"{'gene' if i < 60 else 'other'}_{i}" for i in range(300)]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(InputError, match="Only 60 of the 300 genes"):
        sd.tl.embed(other, method=model[0])
    assert "scdance" not in other.uns


def test_an_annotator_begins_as_the_model_was_trained(model):
    made, folder = model
    ref = sd.datasets.toy_clusters(n_obs=900, n_vars=300, k=4, batches=3, random_state=1)[::5].copy()
    tuned = sd.fit("annotate", ref, method="cellplm", init=str(folder), labels_key="cell_type", steps=1, lr=1e-9,
                   progress=False)  # fmt: skip
    known = made.preps_["cells"].var_names.tolist()
    at = [known.index(gene) for gene in tuned.preps_["cells"].var_names[tuned.genes_]]
    torch.testing.assert_close(tuned.net_.encoder.genes, made.net_.encoder.genes[at], atol=1e-6, rtol=0)
    torch.testing.assert_close(tuned.net_.encoder.blocks.state_dict(), made.net_.encoder.blocks.state_dict())
    assert tuned.net_.head[0].out_features == 8
    with pytest.raises(InputError, match="no folder"):
        sd.fit("annotate", ref, method="cellplm", init="absent", labels_key="cell_type", progress=False)


def test_few_labels_are_told_from_a_pretrained_model(model):
    whole = sd.datasets.toy_clusters(n_obs=900, n_vars=300, k=4, batches=3, random_state=1)
    ref, query = whole[::2].copy(), whole[1::2].copy()
    ref.obs["known"] = ref.obs["cell_type"].where(np.arange(450) % 10 == 0)
    with pytest.warns(UserWarning, match="have no label"):
        sd.tl.annotate(query, ref, method="cellplm", init=str(model[1]), labels_key="known",
                       steps=100, lr=3e-3, progress=False)  # fmt: skip
    assert (query.obs["cellplm"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9


# ------------------------------------------------------------------ several devices


@pytest.fixture(scope="module")
def by_two(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    pytest.importorskip("lightning_fabric")
    folder, states = tmp_path_factory.mktemp("by_two") / "saved", tmp_path_factory.mktemp("states")
    random = torch.get_rng_state()
    made = sd.fm.pretrain(files, folder, config="tiny", sample_key={"part_0": "batch"}, steps=160, devices=2,
                          device="cpu", checkpoint=states, about="by two", **TINY)  # fmt: skip
    assert torch.equal(torch.get_rng_state(), random)
    assert [file.name for file in states.iterdir()] == ["training.safetensors"]
    return made, folder


@pytest.mark.xdist_group("by_two")
def test_two_processes_restore_hidden_counts_in_half_of_the_steps(model, by_two):
    """That both end with the same network they compare themselves."""
    alone, (made, _) = model[0], by_two
    losses = made.history_["training_loss"]
    assert losses[-1] < 0.98 * losses[0]
    assert made.notes_["hidden_deviance"] < 1
    by_epoch = int(alone.net_.n_steps) / alone.epochs_, int(made.net_.n_steps) / made.epochs_
    assert by_epoch[0] / 2 <= by_epoch[1] <= by_epoch[0] / 2 + 1
    assert made.epochs_ == pytest.approx(alone.epochs_ * 160 / 400, abs=1)  # as many cells as on one device
    assert made.sizes == alone.sizes
    assert made.batches_ == alone.batches_
    assert made.notes_.keys() == alone.notes_.keys()
    for name in ("file", "n_obs", "n_genes", "n_samples"):
        assert made.notes_["files"][name].tolist() == alone.notes_["files"][name].tolist()


@pytest.mark.xdist_group("by_two")
def test_the_model_of_two_processes_is_returned_and_saved_and_places_new_cells(by_two):
    made, folder = by_two
    new = sd.datasets.toy_clusters(n_obs=900, n_vars=300, k=4, batches=3, random_state=1)[::7].copy()
    sd.tl.embed(new, method=folder)
    assert sd.metrics.kmeans_ari(new.obs["cell_type"], new.obsm["X_cellplm"]) > 0.7  # after few steps
    sd.tl.embed(new, method=made, key_added="same")
    np.testing.assert_array_equal(new.obsm["X_cellplm"], new.obsm["X_same"])
    assert sd.load(folder).notes_["about"] == "by two"


def test_an_error_in_another_process_is_raised_here(files, tmp_path):
    pytest.importorskip("lightning_fabric")
    with pytest.raises(InputError, match="devices=2, but there are 1 groups of cells"):
        sd.fm.pretrain(files[:1], config="tiny", steps=1, devices=2, device="cpu", **TINY | {"batch_size": 512})


def test_several_devices_that_cannot_be_are_refused_before_anything_is_read(files, monkeypatch):
    monkeypatch.setattr("scdance.fm._devices.find_spec", lambda name: True)
    for devices in (0, 1.5, True, "2", -1):
        with pytest.raises(InputError, match="devices must be a whole number of at least 1"):
            sd.fm.pretrain(files, config="tiny", devices=devices)
    with pytest.raises(InputError, match=r"1_b are objects in memory.*write_h5ad"):
        sd.fm.pretrain({"a": files[0], "1_b": ad.read_h5ad(files[1])}, config="tiny", devices=2)
    with pytest.raises(InputError, match="device='cpu:0' is one device, but devices=2: pass device='cpu'"):
        sd.fm.pretrain(files, config="tiny", devices=2, device="cpu:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"devices=2, but PyTorch finds 1 of kind 'cuda' here: pass devices=1"):
        sd.fm.pretrain(files, config="tiny", devices=2, device="cuda")


def test_one_device_needs_no_engine_and_several_say_which_package(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # as if it were not installed
    sd.fm.pretrain(files, config="tiny", steps=1, devices=1, **TINY)
    with pytest.raises(MissingPackageError, match=r"devices=2 needs .* pip install 'scdance\[distributed\]'"):
        sd.fm.pretrain(files, config="tiny", steps=1, devices=2, **TINY)


# ------------------------------------------------------------------ published weights


def checkpoint(folder: Path, config: dict[str, Any], **changes: Any) -> tuple[Path, Path]:
    """Files of a model of random weights in the published layout."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"module.{k}": 0.1 * torch.randn(s, generator=generator) for k, (s, _) in layout(config).items()}
    tensors |= changes
    paths = folder / "random.config.json", folder / "random.best.ckpt"
    paths[0].write_text(json.dumps(config))
    torch.save({"model_state_dict": {k: v for k, v in tensors.items() if v is not None}}, paths[1])
    return paths


def test_the_published_layout_has_its_number_of_tensors_and_parameters():
    table = layout(PUBLISHED)
    assert len(table) == 105
    assert sum(int(np.prod(shape)) for shape, _ in table.values()) == 82_402_543


def test_the_published_network_has_all_tensors_that_have_an_effect():
    from scdance.nn import CellTransformer, Shape

    shape = Shape(19_374, 1024, 4, 8, 512, 16, 1024, 128, (12_596, 484), 0.2, has_places=False)
    with torch.device("meta"):
        net = CellTransformer(shape)
    ours = {name: tuple(value.shape) for name, value in net.named_parameters()}
    assert ours == {name: shape for shape, name in layout(PUBLISHED).values() if name}
    inert = 10_000 * 1024 + 3 * 1024  # of positions that it is not told, and of a norm that is not used
    assert sum(value.numel() for value in net.parameters()) == 82_402_543 - inert


@pytest.mark.parametrize("latent", ["gmvae", "vae"])
def test_random_weights_are_converted_and_embed(tmp_path, latent):
    config = {**CONFIG, "latent_mod": latent}
    paths = checkpoint(tmp_path, config)
    sd.fm.convert_cellplm(*paths, tmp_path / "model", about="random weights")
    adata = sd.datasets.toy_clusters(n_obs=40, n_vars=90)
    adata.var_names = CONFIG["gene_list"]
    sd.tl.embed(adata, method=tmp_path / "model")
    made = sd.load(tmp_path / "model")
    assert made.notes_["about"] == "random weights"
    with pytest.raises(InputError, match="normalize=False"):  # it saw counts of any depth
        sd.fit("embed", adata, method="cellplm", init=str(tmp_path / "model"), steps=1, progress=False)
    screen = sd.datasets.toy_perturbed(200, 90, n_singles=2, n_doubles=0)
    with pytest.raises(InputError, match="normalize=False"):  # controls are read at one depth
        sd.fit("predict_perturbation", screen, "cellplm", perturbation_key="perturbation", init=str(tmp_path / "model"))
    tensors = torch.load(paths[1], weights_only=True)["model_state_dict"]
    x = torch.from_numpy(adata.X.toarray()).float().log1p()
    with torch.no_grad():
        token = x @ tensors["module.embedder.feat_enc.emb"]
        torch.testing.assert_close(x @ made.net_.encoder.genes, token)
        torch.testing.assert_close(
            made.net_.latent(made.net_.encoder(x)).z.numpy(), adata.obsm["X_cellplm"], rtol=1e-4, atol=1e-5
        )
        theta = tensors["module.decoder.out_layer.dec_disp"].exp()
        torch.testing.assert_close(torch.nn.functional.softplus(made.net_.head.gene_dispersion), theta)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    name = "module.encoder.layers.0.norm1.weight"
    for change, said in (
        ({name: None}, "lacks 1 tensors"),
        ({name: torch.zeros(3)}, r"other shapes 1 tensors .*\(3,\) for \(16,\)"),
        ({"module.other": torch.zeros(3)}, "has besides 1 tensors"),
    ):
        with pytest.raises(InputError, match=said):
            sd.fm.convert_cellplm(*checkpoint(tmp_path, CONFIG, **change))
    paths = checkpoint(tmp_path, CONFIG)
    with pytest.raises(InputError, match="SHA-256"):
        sd.fm.convert_cellplm(*paths, sha256="0" * 64)
    paths[0].write_text(json.dumps({**CONFIG, "latent_mod": "split"}))
    with pytest.raises(InputError, match="does not have: latent_mod='split'"):
        sd.fm.convert_cellplm(*paths)
    paths[0].write_text("[]")
    with pytest.raises(InputError, match="it lacks"):
        sd.fm.convert_cellplm(*paths)


class Harmful:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("harm"),)


def test_a_checkpoint_that_runs_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = checkpoint(tmp_path, CONFIG)
    torch.save({"model_state_dict": {}, "more": Harmful()}, paths[1])
    with pytest.raises(InputError, match="holds more than tensors"):
        sd.fm.convert_cellplm(*paths)
    assert not (tmp_path / "harm").exists()
