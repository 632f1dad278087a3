from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scdance._checks import InputError, listed
from scdance._core.registry import get
from scdance.pp import FittedRecipe

if TYPE_CHECKING:
    from scdance._core.method import Method

ARRAYS = ("coef", "intercept", "classes", "features", "mean", "scale")


def convert_celltypist(source: str | Path, out: str | Path | None = None, *, about: str = "") -> Method:
    """Bring a model that CellTypist has published into the safe files of scdance.

    The published files are pickles, which can run any code when they are opened, so scdance never opens one. Where
    CellTypist is installed, and for a model that you trust, write its numbers to a plain file first::

        import celltypist, numpy as np
        m = celltypist.models.Model.load("Immune_All_Low.pkl")
        np.savez("immune.npz", coef=m.classifier.coef_, intercept=m.classifier.intercept_,
                 classes=m.classifier.classes_.astype(str), features=m.classifier.features.astype(str),
                 mean=m.scaler.mean_, scale=m.scaler.scale_)

    Parameters
    ----------
    source
        That ``.npz`` file. Nothing in it is executed.
    out
        Folder to save the model in, for ``scdance.tl.annotate(adata, method=folder)``; None: it is only returned.
    about
        What the model is and where it comes from, for its card.

    Returns
    -------
    The annotator, fitted. Labels are those of CellTypist's "best match"; probabilities are the softmax of its scores
    and not calibrated, and there is neither novelty nor a set of types, since no cell of its reference is at hand.

    Raises
    ------
    InputError
        If the file is another, or its arrays do not fit together.

    Examples
    --------
    >>> import scdance as sd
    >>> model = sd.fm.convert_celltypist("immune.npz", "immune", about="Immune_All_Low v2")  # doctest: +SKIP
    >>> sd.tl.annotate(adata, method="immune")  # doctest: +SKIP
    """
    given = _arrays(Path(source))
    coef, intercept = np.atleast_2d(given["coef"]).astype(float), np.atleast_1d(given["intercept"]).astype(float)
    classes, features = given["classes"].astype(str), given["features"].astype(str)
    if len(classes) == 2 and len(coef) == 1:  # two types have one row: that of the second
        coef, intercept = np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
    expected = {
        "coef": (len(classes), len(features)),
        "intercept": (len(classes),),
        "mean": (len(features),),
        "scale": (len(features),),
    }
    for name, values in (("coef", coef), ("intercept", intercept), ("mean", given["mean"]), ("scale", given["scale"])):
        if values.shape != expected[name] or not np.isfinite(values).all():
            msg = (
                f"`{name}` in {source} has shape {values.shape}, expected {expected[name]} finite numbers for "
                f"{len(classes)} classes and {len(features)} features. Export the model again as the help shows."
            )
            raise InputError(msg)
    names = pd.Index(features)
    if names.has_duplicates:
        again = names[names.duplicated()].unique()
        msg = f"`features` in {source} must be unique, but {listed(again, 3)} occur more than once."
        raise InputError(msg)
    model: Any = get("annotate", "celltypist")(about=about, n_top_genes=None)
    states = [("normalize_total", {"target": 1e4}), ("log1p", {})]
    model.preps_ = {"cells": FittedRecipe(features, states, text="normalize_total(target=10000.0) → log1p")}
    model.categories_ = classes.tolist()
    model.adopt(coef.T, intercept, given["mean"].astype(float), given["scale"].astype(float))
    if out is not None:
        model.save(out)
    return model  # type: ignore[no-any-return]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        msg = f"{path} is not a file that `numpy.savez` wrote ({error}). Export the model as the help shows."
        raise InputError(msg) from error
    if missing := [name for name in ARRAYS if name not in found]:
        msg = f"{path} lacks {listed(missing)}; it holds {listed(found)}. Export the model as the help shows."
        raise InputError(msg)
    return found
