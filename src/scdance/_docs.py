"""Texts of shared parameters, each written once, and the Returns section that a Task implies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ._core.task import Task

PARAMETERS = {
    "adata": "Annotated data, cells in rows.",
    "mdata": "Multimodal data; a cell measured in both modalities has the same name in both.",
    "ref": (
        "Reference: annotated cells with `labels_key`; or, without it, a table of profiles with one row per type "
        "(AnnData or DataFrame). Genes are matched by name."
    ),
    "labels_key": 'Column of ``ref.obs`` with the cell types. Cells where it is NaN or "" are left out.',
    "ref_layer": "Layer of `ref` with the counts. None: ``layers['counts']`` if there, else ``X``.",
    "source": "Name of the first modality, or an alias of it (rna, gex; prot, adt, protein; atac, peaks).",
    "target": "Name of the second modality, in the same way. With two modalities both may be left out.",
    "spatial_key": "Key of ``obsm`` with the coordinates, for methods that use them and data that give none otherwise.",
    "library_key": (
        "Column of ``adata.obs`` with the slice of tissue that each spot lies on; nothing is taken for near across "
        "slices. None: all lie on one, or in a SpatialData the regions that the table annotates."
    ),
    "image_key": (
        "Picture of the tissue, for methods that look at one: in ``uns['spatial'][library]['images']`` (None: "
        "``'hires'`` if there) or an image of the SpatialData (None: the only one); by slice, as a dict, if several."
    ),
    "table_key": "Name of the table of a SpatialData; needed where there are several.",
    "coordinate_system": "Coordinate system of a SpatialData in which the spots lie.",
    "layer": (
        "Layer with the counts. None: ``layers['counts']`` if there, else ``X``. A method that needs counts refuses "
        "normalised values; one that needs log values takes log-normalised ``X`` as it is."
    ),
    "use_rep": "Key of ``adata.obsm`` to work on instead of the expression, for methods that can.",
    "batch_key": "Column of ``adata.obs`` with the batches, for methods that use them.",
    "neighbors_key": "Key of ``adata.uns`` of a graph by :func:`scanpy.pp.neighbors`, for methods that use one.",
    "neighbors": (
        "Also write a graph of so many neighbours of each cell in the embedding, itself counted, for "
        "``sc.tl.umap(adata, neighbors_key=key)`` and Leiden; None: no graph."
    ),
    "split_key": (
        "Column of ``obs`` that says which cells teach, where cells that are asked have the target too: True or "
        "``'train'``. None: all that are in both modalities."
    ),
    "perturbation_key": (
        "Column of ``adata.obs`` that says what is perturbed in each cell: the control, a gene, or several joined by "
        '"+". A fitted method takes the control cells, and all cells for such without it.'
    ),
    "control": "Name of the unperturbed cells in that column.",
    "prior": (
        "What is known of the features, for methods that use it: the path of a GMT file or of a table of links, a dict "
        "of sets of genes, a DataFrame with columns source, target and perhaps weight, a networkx graph, or a sparse "
        "matrix and the names of its rows."
    ),
    "symbols": "Gene symbol of features that are not called by it, such as proteins: ``dict(CD4_TotalSeqB='CD4')``.",
    "key_added": "Name of the results; None: that of the method. A slot that another tool wrote is never overwritten.",
    "preset": (
        'Published settings kept beside the method: ``"paper"``, ``"dance"`` or a data set\'s name. '
        "Typed parameters win."
    ),
    "recipe": '``"default"``: the preprocessing of the method, on a private copy. None: the values as they are.',
    "random_state": (
        "Seed: a whole number, a numpy Generator (a child is spawned) or None. Equal seeds give equal results on CPU."
    ),
    "device": '``"auto"`` (CUDA if present, else CPU), ``"cpu"``, ``"cuda"`` or ``"mps"``.',
    "progress": "Show a progress bar; None: only on a terminal or in a notebook.",
    "checkpoint": (
        "Folder in which training keeps its state every few epochs; an existing one of the same call is continued, "
        "one of another call is an error."
    ),
    "copy": "Return a copy with the results instead of writing into `adata`.",
    "params": "Parameters of the method, as its page and ``help`` of its class list them.",
}

RAISES = """\
TypeError
    A keyword that the method does not have, or an object of the wrong kind.
ValueError
    A value that does not fit, input that the method cannot use, or a slot that is taken.
KeyError
    A column, layer or slot that is not in the object.
ImportError
    An optional package is missing; the message holds the line to install it."""


def returns(task: Task) -> str:
    """The Returns section of a tool."""
    lines = ["None, or with ``copy=True`` a copy of the object, which gets:", ""]
    for part, slot in task.gives.items():
        where_given = ", where the method has it" if part in task.optional else ""
        lines += [f"``{task.place(part)}``", f"    {slot.text}{where_given}."]
    lines += [
        f"``{task.owner}.uns['scdance'][{task.name!r}]['{task.run_key()}']``",
        "    Run record: method, parameters, input, history, seconds.",
    ]
    return "\n".join(lines)


def documented(task: Task | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Fill ``{parameters}``, ``{returns}``, ``{raises}`` and single shared parameters into a docstring."""

    def fill(function: Callable[..., Any]) -> Callable[..., Any]:
        lines = []
        for line in inspect.cleandoc(function.__doc__ or "").splitlines():
            word = line.strip()
            if word.startswith("{") and word.endswith("}"):
                lines += _expand(word[1:-1], task).splitlines()
            else:
                lines.append(line)
        function.__doc__ = "\n".join(lines)
        return function

    return fill


def _expand(names: str, task: Task | None) -> str:
    if names == "returns" and task is not None:
        return returns(task)
    if names == "raises":
        return RAISES
    return "\n".join(
        f"{name if name != 'params' else '**params'}\n    {PARAMETERS[name]}" for name in names.split(", ")
    )
