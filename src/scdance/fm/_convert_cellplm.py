from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, listed
from scdance._core.method import checked_folder
from scdance._core.run import make
from scdance.pp import FittedRecipe

if TYPE_CHECKING:
    from scdance._core.method import Method

HEADS, INNER, MIXTURE_HIDDEN, PATCHES = 8, 128, 512, 10_000  # sizes that the configuration does not name
AT_ONCE = 2000  # most cells that hear each other
# what else the network could be, and what it must be
FIXED = {"dec_layers": 2, "cat_pe": False, "dsbn": False}
SIZES = (
    "enc_hid", "enc_layers", "post_latent_dim", "dec_hid", "out_dim", "batch_num", "dataset_num", "gene_list",
    "latent_mod", "model_dropout",
)  # fmt: skip


def convert_cellplm(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    sha256: str | None = None,
    about: str = "",
) -> Method:
    """Bring a checkpoint of CellPLM that its authors distribute into the safe files of scdance.

    scdance neither distributes nor downloads such weights. The checkpoint is a pickle, which could run any code; it is
    opened in the mode of PyTorch that reads nothing but tensors, and refused if that does not do.

    Parameters
    ----------
    config
        The file ``….config.json``, with the sizes and the list of genes.
    checkpoint
        The file ``….best.ckpt``.
    out
        Folder to save the model in, for ``scdance.tl.embed(adata, method=folder)``; None: it is only returned.
    sha256
        What the SHA-256 of the checkpoint must be; None: it is not looked at.
    about
        Where the weights come from and under which licence, for the card of the model.

    Returns
    -------
    The fitted method, a CellPLM of the task "embed", of counts whatever their depth, as it was trained. It knows no
    places, which the published network was not told either.

    Raises
    ------
    InputError
        If the checkpoint is another, holds more than tensors, or one of these is missing, unknown or of another shape.

    Examples
    --------
    >>> import scdance as sd
    >>> name = "20230926_85M"
    >>> sd.fm.convert_cellplm(f"{name}.config.json", f"{name}.best.ckpt", "cellplm_85M")  # doctest: +SKIP
    >>> sd.tl.embed(adata, method="cellplm_85M")  # doctest: +SKIP
    """
    if out is not None:
        checked_folder(out)
    told = _config(Path(config))
    tensors = _tensors(Path(checkpoint), sha256)
    table = layout(told)
    _compare(tensors, table, Path(checkpoint))
    model: Any = make(
        "embed",
        "cellplm",
        {
            "hidden": told["enc_hid"], "n_layers": told["enc_layers"], "heads": HEADS,
            "n_latent": told["post_latent_dim"], "n_components": told.get("num_clusters", 0),
            "dropout": told["model_dropout"], "n_top_genes": None, "normalize": False, "batch_size": AT_ONCE,
        },
    )  # fmt: skip
    model.begin(np.array(told["gene_list"], dtype=str), (told["batch_num"], told["dataset_num"]))
    model.net_ = model.net()
    state = model.net_.state_dict()
    for key, (_, ours) in table.items():
        if ours:
            state[ours] = _dispersion(tensors[key]) if ours == "head.gene_dispersion" else tensors[key].float()
    model.net_.load_state_dict(state)
    model.net_.eval()
    genes = np.array(told["gene_list"], dtype=str)
    model.preps_ = {"cells": FittedRecipe(genes, [("log1p", {})], text="log1p")}
    model.categories_, model.notes_ = [], {"about": about, "converted_from": Path(checkpoint).name}
    if out is not None:
        model.save(out)
    return model  # type: ignore[no-any-return]


def layout(config: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names and shapes of the tensors of a checkpoint, and our names of them, "" for those that have no effect."""
    width, latent, genes = config["enc_hid"], config["post_latent_dim"], config["out_dim"]
    table: dict[str, tuple[tuple[int, ...], str]] = {}

    def linear(theirs: str, ours: str, n_out: int, n_in: int) -> None:
        table[f"{theirs}.weight"] = ((n_out, n_in), f"{ours}.weight")
        table[f"{theirs}.bias"] = ((n_out,), f"{ours}.bias")

    def norm(theirs: str, ours: str, n: int) -> None:
        for part in ("weight", "bias"):
            table[f"{theirs}.{part}"] = ((n,), f"{ours}.{part}" if ours else "")

    norm("embedder.norm0", "", width)
    linear("embedder.extra_linear.0", "encoder.mix.0", width, width)
    norm("embedder.extra_linear.3", "encoder.mix.3", width)
    table["embedder.pe_enc.missing_pe"] = ((width,), "")
    table["embedder.pe_enc.pe_enc.weight"] = ((PATCHES, width), "")
    table["embedder.feat_enc.emb"] = ((genes, width), "encoder.genes")
    for i in range(config["enc_layers"]):
        layer, block = f"encoder.layers.{i}", f"encoder.blocks.{i}"
        for part in ("query", "key", "value", "out"):
            linear(f"{layer}.self_attn.{part}_projection", f"{block}.attention.{part}", width, width)
        linear(f"{layer}._ff_block.0", f"{block}.dense.0", 2 * width, width)
        linear(f"{layer}._ff_block.3", f"{block}.dense.3", width, 2 * width)
        norm(f"{layer}.norm1", f"{block}.attention_norm", width)
        norm(f"{layer}.norm2", f"{block}.dense_norm", width)
    norm("pre_latent_norm.norm", "encoder.norm", width)
    if config["latent_mod"] == "vae":
        linear("latent.layers.1.hid_2mu", "latent.mean", latent, width)
        linear("latent.layers.1.hid_2sigma", "latent.log_variance", latent, width)
    else:
        k, inference = config["num_clusters"], "latent.layers.1.inference"
        linear(f"{inference}.inference_qyx.0.logits", "latent.component", k, width)
        linear(f"{inference}.inference_qzyx.0", "latent.hidden", MIXTURE_HIDDEN, width + k)
        linear(f"{inference}.inference_qzyx.2.mu", "latent.mean", latent, MIXTURE_HIDDEN)
        linear(f"{inference}.inference_qzyx.2.var", "latent.variance", latent, MIXTURE_HIDDEN)
        linear(f"{inference}.y_mu", "latent.prior_mean", latent, k)
        linear(f"{inference}.y_var", "latent.prior_variance", latent, k)
    linear("decoder.layers.0.0", "decoder.0", width, latent)
    table["decoder.layers.0.1.weight"] = ((1,), "decoder.1.weight")
    norm("decoder.layers.0.3", "decoder.3", width)
    for i, covariate in enumerate(("batch", "dataset")):
        theirs, ours = f"decoder.covariate_layers.0.{covariate}", f"covariates.{i}"
        table[f"{theirs}.0.weight"] = ((config[f"{covariate}_num"], width), f"{ours}.table.weight")
        table[f"{theirs}.1.weight"] = ((1,), f"{ours}.activation.weight")
        norm(f"{theirs}.2", f"{ours}.norm", width)
    linear("decoder.out_layer.dec_1", "inner", INNER, width)
    linear("decoder.out_layer.dec_mean.0", "head.mean", genes, INNER)
    table["decoder.out_layer.dec_disp"] = ((genes,), "head.gene_dispersion")
    return table


def _config(path: Path) -> dict[str, Any]:
    """The configuration, if it describes a network that can be built here."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        msg = f"{path} is not the configuration of a CellPLM, a json file: {error}."
        raise InputError(msg) from error
    missing = [name for name in SIZES if name not in told] if isinstance(told, dict) else SIZES
    if missing:
        msg = f"{path} is not the configuration of a CellPLM: it lacks {listed(missing)}."
        raise InputError(msg)
    other = {name: told[name] for name, wanted in FIXED.items() if told.get(name, wanted) != wanted}
    if told["latent_mod"] not in ("gmvae", "vae"):
        other["latent_mod"] = told["latent_mod"]
    if told["dec_hid"] != told["enc_hid"]:
        other["dec_hid"] = told["dec_hid"]
    if len(told["gene_list"]) != told["out_dim"]:
        other["gene_list"] = f"{len(told['gene_list'])} genes for out_dim={told['out_dim']}"
    if other:
        found = ", ".join(f"{name}={value!r}" for name, value in other.items())
        msg = f"{path} describes a network that scdance does not have: {found}."
        raise InputError(msg)
    if told["latent_mod"] == "vae":
        told["num_clusters"] = 0
    return told


def _tensors(path: Path, sha256: str | None) -> dict[str, Any]:
    """The tensors of a checkpoint by name; nothing else in it is touched."""
    from pickle import UnpicklingError

    import torch

    if not path.is_file():
        msg = f"There is no file {str(path)!r}."
        raise InputError(msg)
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            msg = f"{path} has the SHA-256 {found}, not {sha256}: it is another file, or was changed on its way."
            raise InputError(msg)
    try:
        opened = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        msg = (
            f"{path} holds more than tensors, or is damaged, and is not opened: a file that does can run any code. Ask "
            "its authors for the state dict alone."
        )
        raise InputError(msg) from error
    inner = opened.get("model_state_dict", opened) if isinstance(opened, dict) else {}
    return {str(k).removeprefix("module."): v for k, v in inner.items() if isinstance(v, torch.Tensor)}


def _compare(tensors: dict[str, Any], table: dict[str, tuple[tuple[int, ...], str]], path: Path) -> None:
    """Refuse a checkpoint that is not of this layout, and say where it differs."""
    ignored = tuple(name for name in tensors if name.startswith("latent.layers.2.discriminator."))
    missing = [name for name in table if name not in tensors]
    unknown = [name for name in tensors if name not in table and name not in ignored]
    wrong = [
        f"{name} {tuple(tensors[name].shape)} for {shape}"
        for name, (shape, _) in table.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    said = (("lacks", missing), ("has besides", unknown), ("has in other shapes", wrong))
    found = [f"{verb} {len(names)} tensors ({listed(names, 3)})" for verb, names in said if names]
    if found:
        msg = f"{path} does not fit its configuration: it {'; it '.join(found)}."
        raise InputError(msg)


def _dispersion(logarithm: Any) -> Any:
    """The number whose softplus is the dispersion, of which the checkpoint has the logarithm."""
    theta = logarithm.double().exp().clamp(1e-4, 1e4)
    return (theta + (-(-theta).expm1()).log()).float()  # log(e^θ − 1), also where e^θ is infinite
