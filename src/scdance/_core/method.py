"""The one interface of all methods, and how a fitted one is saved and loaded."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from scdance._checks import InputError, NotFittedError, ScdanceError
from scdance.pp import FittedRecipe, Recipe

from .knobs import build, values_of

FORMAT = 1  # of saved methods; raised when an old reader could not read a new file
_JSON, _ARRAYS = "method.json", "arrays.safetensors"


@dataclass
class Runtime:
    """What a call gives a method beside its knobs: how to report, where to keep checkpoints.

    Attributes
    ----------
    progress
        Show a progress bar; None: only on a terminal or in a notebook.
    checkpoint
        Folder for checkpoints, or None.
    fingerprint
        Text that tells this call from others: method, knobs, seed, data.
    on_epoch
        Called as ``on_epoch(stage, epoch, look)``; ``look()`` returns the present result. It cannot steer.
    """

    progress: bool | None = None
    checkpoint: Path | None = None
    fingerprint: str = ""
    on_epoch: Callable[[str, int, Callable[[], dict[str, Any]]], None] | None = None


OUT_OF_TIME = "out of time"  # why a training ended that another call may continue


def checked_folder(path: str | Path) -> Path:
    """Refuse a place that a method cannot be saved to, before it is fitted: a file, or a folder with other things."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and {each.name for each in path.iterdir()} <= {_JSON, _ARRAYS}):
        msg = f"{path} exists and is not a saved method of scdance; pass a new folder."
        raise InputError(msg)
    return path


@dataclass(kw_only=True, eq=False)
class Method:
    """Base of all methods. Annotated names are knobs that users set; bare names are facts.

    Every subclass becomes a keyword-only dataclass. Construction stores, :meth:`fit` works, what it learns
    ends in ``_``, :meth:`predict` changes nothing.

    Parameters
    ----------
    random_state
        Seed of everything random in the method.
    device
        "auto", "cpu", "cuda" or another torch device; methods without torch ignore it.
    """

    random_state: int = 0
    device: str = "auto"

    task: ClassVar[str] = ""
    name: ClassVar[str] = ""
    cite = ""  # key in docs/references.bib
    needs: ClassVar[tuple[str, ...]] = ("counts",)  # refused without
    uses: ClassVar[tuple[str, ...]] = ()  # taken when given; what is in neither is never even read
    extras: ClassVar[tuple[tuple[str, str], ...]] = ()  # optional packages: (import name, extra of scdance)
    inductive = True  # False: predict answers only for the cells it was fitted on
    keeps: ClassVar[tuple[str, ...]] = ()  # training data that prediction needs, by attribute
    skips_missing = False  # leaves genes out that the object lacks, where others take them as 0
    order_free = False  # permuting the cells permutes the result of a whole run
    control = False  # a floor or ceiling
    route = False  # an adapter to another package
    recipe: ClassVar[Any] = Recipe()  # of a method of two modalities: one by kind, "rna", "prot" and "atac"
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    beside: ClassVar[Any] = ()  # genes whose counts are read though the recipe leaves them out
    fit_on: ClassVar[tuple[str, ...] | None] = None  # roles that fit wants; None: all of the task
    asks: ClassVar[tuple[str, ...]] = ()  # knobs that only predict reads: they may be typed with a fitted method
    tries: ClassVar[dict[str, tuple[Any, ...]]] = {}  # values of knobs among which held-out counts may choose
    exempt: ClassVar[dict[str, str]] = {}  # common checks that it cannot pass: name → reason

    runtime = Runtime()

    if TYPE_CHECKING:  # set by `run`, beside what `fit` learns
        preps_: dict[str, FittedRecipe]  # by the role whose cells it prepares
        categories_: list[str]
        n_dims_: int  # of the representation that it was fitted on, if it was
        fitted_on_: str
        batches_: list[str]
        modalities_: list[str]  # names of source and target
        taught_: list[str]  # perturbations that it has learnt from
        features_: dict[str, np.ndarray]  # of the target, where it is predicted
        notes_: dict[str, Any]
        net_: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parts = cls.__module__.split(".")
        if parts[:2] == ["scdance", "methods"] and len(parts) == 4:
            cls.task, cls.name = parts[2], parts[3]
        elif "name" not in vars(cls):
            cls.name = cls.__name__.lower()  # a subclass of a method of ours is another method
        dataclass(kw_only=True, eq=False)(cls)

    def check(self) -> None:
        """Refuse knobs that do not go together, and say what package they need, before anything is read."""

    def check_cells(self, cells: Any) -> None:
        """Refuse cells that do not go with the knobs, before anything is computed."""

    def fit(self, **roles: Any) -> Self:
        """Learn from the cells of each role."""
        raise NotImplementedError

    def predict(self, **roles: Any) -> dict[str, Any]:
        """Return the parts of the result that the task names."""
        raise NotImplementedError

    @property
    def is_fitted(self) -> bool:
        """Whether the method can predict."""
        return hasattr(self, "preps_")

    @property
    def state(self) -> dict[str, Any]:
        """What fitting learnt: attributes that end in ``_``."""
        return {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}

    def unfitted(self) -> Self:
        """Return a copy without fitted state."""
        new = copy.copy(self)
        for name in new.state:
            delattr(new, name)
        return new

    def rng(self, stage: str) -> np.random.Generator:
        """A generator of this method's seed for one purpose."""
        return np.random.default_rng([self.random_state, *stage.encode()])

    @contextmanager
    def session(self) -> Iterator[None]:
        """Surround fit and predict: whatever runs inside leaves the global random states as they were."""
        python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002, only put back
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002

    # ------------------------------------------------------------------ save and load

    def save(self, path: str | Path) -> None:
        """Write the fitted method to a folder: json and safetensors, no pickle.

        The folder holds the knobs, the names of genes and categories and the learnt numbers, and no
        training data but what `keeps` names.

        Parameters
        ----------
        path
            The folder; made if need be. One that holds something other than a saved method is refused.

        Raises
        ------
        NotFittedError
            The method has not been fitted.
        InputError
            `path` is a file, or a folder with other things in it.

        Examples
        --------
        >>> import scdance as sd
        >>> adata = sd.datasets.load("pbmc_demo")
        >>> model = sd.fit("cluster", adata, method="kmeans", n_clusters=8)
        >>> model.save("pbmc_kmeans")  # doctest: +SKIP
        """
        if not self.is_fitted:
            msg = f"{type(self).__name__} has not been fitted, so there is nothing to save; use `scdance.fit` first."
            raise NotFittedError(msg)
        from safetensors.numpy import save_file

        path = checked_folder(path)
        arrays: dict[str, np.ndarray] = {}
        state = {k: _pack(v, k, arrays) for k, v in self.state.items() if k not in ("preps_", "net_")}
        preps = {}
        for role, prep in self.preps_.items():
            preps[role], learnt = prep.to_json()
            arrays |= {f"prep/{role}/{k}": v for k, v in learnt.items()}
        if hasattr(self, "net_"):
            arrays |= {f"net/{k}": v.detach().cpu().numpy() for k, v in self.net_.state_dict().items()}
        card = {
            "format": FORMAT,
            "scdance": _version(),
            "task": self.task,
            "name": self.name,
            "random_state": self.random_state,
            "knobs": values_of(self),
            "keeps": list(self.keeps),
            "state": state,
            "preps": preps,
        }
        text = json.dumps(card, indent=1)
        new = path.with_name(f".{path.name}.part")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, new / _ARRAYS)
        (new / _JSON).write_text(text)
        shutil.rmtree(path, ignore_errors=True)
        new.rename(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a method that :meth:`save` wrote; called on your own class, it loads that class."""
        card, arrays = read_saved(path)
        if (card["task"], card["name"]) != (cls.task or card["task"], cls.name):
            msg = f"{path} holds {card['name']!r} of task {card['task']!r}, not {cls.name!r}: use `scdance.load`."
            raise InputError(msg)
        try:
            new = build(cls, card["knobs"])
            new.random_state = card["random_state"]
            for name, value in card["state"].items():
                setattr(new, name, _unpack(value, arrays))
            new.preps_ = {
                role: FittedRecipe.from_json(prep, _under(f"prep/{role}/", arrays))
                for role, prep in card["preps"].items()
            }
            net = _under("net/", arrays)
            if net:
                new._load_net(net)
        except ScdanceError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        return new

    def _load_net(self, arrays: dict[str, np.ndarray]) -> None:
        msg = f"{type(self).__name__} has no net to load; scdance was told of one in the file."
        raise InputError(msg)


def read_saved(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Card and arrays of a saved method, or an error that says what is wrong with the folder."""
    path = Path(path)
    if not (path / _JSON).is_file() or not (path / _ARRAYS).is_file():
        msg = (
            f"{path} holds no saved method: expected a folder with {_JSON} and {_ARRAYS}, as `model.save(path)` writes."
        )
        raise InputError(msg)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        card = json.loads((path / _JSON).read_text())
        arrays = load_file(path / _ARRAYS)
        found, _, _ = int(card["format"]), card["task"], card["name"]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(path, error) from error
    if found > FORMAT:
        msg = (
            f"{path} was saved by scdance {card.get('scdance')} in format {found}; "
            f"this version reads up to {FORMAT}: pip install -U scdance."
        )
        raise InputError(msg)
    return card, arrays


def _damaged(path: str | Path, error: Exception) -> InputError:
    msg = f"The saved method in {path} is damaged ({error}); save it again or fetch it anew."
    return InputError(msg)


def _version() -> str:
    from scdance import __version__

    return __version__


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as json, its numeric arrays moved to `arrays`."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OUS":
        arrays[f"state/{name}"] = value
        return {"$array": f"state/{name}"}
    if isinstance(value, np.ndarray):
        return {"$strings": [str(v) for v in value]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {"$dict": {k: _pack(v, f"{name}/{k}", arrays) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return [_pack(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
    return value


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$strings" in value:
        return np.array(value["$strings"], dtype=str)
    return {k: _unpack(v, arrays) for k, v in value["$dict"].items()}
