"""The command line: ``scdance methods | datasets | run | report | bench | demo``, made from the registry."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import shutil
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ._checks import InputError, ScdanceError, nearest
from ._settings import logger

WRONG, INTERRUPTED = 2, 130  # exit statuses, the second one that of a program ended by Ctrl-C
SUFFIXES = {"AnnData": (".h5ad", ".zarr"), "MuData": (".h5mu",), "SpatialData": (".zarr",)}  # of files to write
PAGES = (".html", ".htm")
SEPARATORS = {".csv": ",", ".tsv": "\t"}  # of tables of profiles


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Words after the program's name; None: those it was called with.

    Returns
    -------
    Exit status: 0; 2 for wrong input, which is told in one sentence without a traceback; 130 after Ctrl-C.
    """
    try:
        args, rest = _parser().parse_known_args(sys.argv[1:] if argv is None else list(argv))
        level = logging.INFO if "verbose" in args or args.command is _bench else logging.WARNING
        with _told(level):
            args.command(args, rest)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `scdance methods | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ScdanceError, OSError) as error:
        print(f"scdance: {error}", file=sys.stderr)
        return WRONG
    return 0


@contextmanager
def _told(level: int) -> Iterator[None]:
    """Show what scdance logs on stderr."""
    handler, before = logging.StreamHandler(sys.stderr), logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving the program, and takes no shortened options."""

    def __init__(self, **given: Any):
        super().__init__(**given, allow_abbrev=False)

    def error(self, message: str) -> Any:
        msg = f"{message}. `{self.prog} --help` tells more."
        raise InputError(msg)


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    common = _Parser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="tell what happens")
    parser = _Parser(
        prog="scdance", description="Deep-learning methods of single-cell and spatial omics.", parents=[common]
    )
    parser.add_argument("--version", action="version", version=f"scdance {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable[..., None], text: str, **given: Any) -> argparse.ArgumentParser:
        new = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **given)
        new.set_defaults(command=do)
        return new

    methods = command("methods", _methods, "list the methods of a task, or the parameters of one", parents=[common])
    methods.add_argument("task", nargs="?")
    methods.add_argument("method", nargs="?")

    datasets = command("datasets", _datasets, "list the data sets, or write one to a file", parents=[common])
    datasets.add_argument("name", nargs="?")
    datasets.add_argument("out", nargs="?", type=Path, metavar="OUT", help="an .h5ad or .h5mu file or a .zarr folder")

    # its options depend on task and method, so all of its words are left to `_run`
    command("run", _run, "run a task: read IN, write OUT", add_help=False, parents=[common])

    text = "make a page of what was run on an object: results, pictures, and the code to repeat it"
    report = command("report", _report, text, parents=[common])
    report.add_argument("file", type=Path, metavar="FILE", help="an .h5ad or .h5mu file or a .zarr folder")
    report.add_argument("out", nargs="?", type=Path, metavar="OUT.html", help="default: beside FILE, of its name")

    bench = command("bench", _bench, "run the grid of a golden.toml; run it again to continue", parents=[common])
    bench.add_argument("plan", type=Path)
    bench.add_argument("out", type=Path, help="folder of the tables, one <task>.csv each")
    bench.add_argument("--seeds", type=int, default=5, help="how many seeds (default 5)")
    bench.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    bench.add_argument("--threads", type=int, default=1, help="threads of each (default 1)")
    bench.add_argument("--timeout", type=float, help="seconds after which a run counts as failed (default: never)")
    bench.add_argument("--datasets", nargs="+", metavar="NAME", help="these, in place of those of the plan")
    bench.add_argument("--presets", action="store_true", help="the published presets in place of the plan's variants")
    bench.add_argument(
        "--measured", type=Path, metavar="FOLDER", help="also write measured_<task>.csv there, for `scdance methods`"
    )

    text = "run every method of every task on embedded data: tables, figures and one page of them"
    demo = command("demo", _demo, text, parents=[common])
    demo.add_argument("out", nargs="?", type=Path, default=Path("demo"), help="folder for them (default demo)")
    return parser


def _no_more(rest: Sequence[str]) -> None:
    if rest:
        msg = f"Words that this command does not know: {' '.join(rest)}. `scdance COMMAND --help` lists those it does."
        raise InputError(msg)


# ---------------------------------------------------------------------- methods, datasets, report, demo


def _methods(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from ._core import registry
    from ._core.knobs import knobs

    _no_more(rest)
    if args.method is None:
        print(registry.methods(args.task).to_string())
        return
    cls = registry.get(args.task, args.method)
    print(inspect.cleandoc(cls.__doc__ or "").partition("\nParameters\n")[0].strip(), end="\n\n")
    for knob in knobs(cls).values():
        print(f"{_flag(knob.name)}\n    {_about(knob)}")
    for name, values in cls.presets.items():
        print(f"--preset {name}\n    {', '.join(f'{knob}={value!r}' for knob, value in values.items())}")


def _datasets(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import datasets

    _no_more(rest)
    if args.name is None:
        print(datasets.table().to_string())
    elif args.out is None:
        print(datasets.load(args.name))
    else:
        _check_goal(args.out, "MuData" if "modalities" in datasets.info(args.name) else "AnnData")
        _write(datasets.load(args.name), args.out)


def _report(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from ._report import report

    _no_more(rest)
    out = args.file.with_suffix(PAGES[0]) if args.out is None else args.out
    if out.suffix not in PAGES or out.is_dir():
        msg = f"{out} is no name of a page; pass one that ends in {' or '.join(PAGES)}."
        raise InputError(msg)
    report(_read(args.file), out, title=args.file.name)
    print(f"The report is in {out}.")


def _demo(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import bench

    _no_more(rest)
    for task, table in bench.demo(args.out).groupby(level="task", sort=False):
        own = table.droplevel("task").dropna(axis=1, how="all").convert_dtypes()  # no scores of other tasks
        print(f"{task}\n{own.to_string()}\n")
    print(f"Open {args.out / 'index.html'}: tables, figures, and the code. A demo's scores are no benchmark.")


# ---------------------------------------------------------------------- run


def _run(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import tl
    from ._core import registry
    from ._fit import load

    asked, wanted = _glance(rest)
    if asked is None:
        _values(rest, {})  # shows the help or says what is missing
        return
    task = registry.task_of(asked)
    method: Any = wanted or task.default
    if method not in registry.names(task.name) and Path(method).is_dir():
        method = load(method)
    cls = registry.get(task.name, method) if isinstance(method, str) else type(method)
    tool = getattr(tl, task.name)
    given = _values(rest, _parameters(tool, cls))
    source, goal = given.pop("IN"), given.pop("OUT")
    _check_goal(goal, _kind(source))
    if "ref" in given:
        given["ref"] = _read_reference(Path(given["ref"]))
    data = _read(source)
    tool(data, **{**given, "method": method})
    _write(data, goal)


def _glance(words: Sequence[str]) -> tuple[str | None, str | None]:
    """Task and method among the words of `run`, before it is known which options there are; each has one value."""
    task, options, left = None, {}, iter(words)
    for word in left:
        if word in ("-h", "--help"):
            continue
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            options[name] = value if equals else next(left, None)
        elif task is None:
            task = word
    return task, options.get("--method")


def _parameters(tool: Callable[..., Any], cls: type) -> dict[str, tuple[Any, str]]:
    """Type and text of each parameter of the tool and of the method."""
    from ._core.knobs import documented, knobs

    texts, words = documented(tool.__doc__), inspect.signature(tool).parameters.values()
    own = {p.name: (p.annotation, texts[p.name]) for p in words if p.kind is p.KEYWORD_ONLY and p.name != "copy"}
    if "ref" in texts:
        own["ref"] = ("Path", f"{texts['ref']} A file: .h5ad, .zarr, or a .csv or .tsv table of profiles.")
    return own | {name: (knob.hint, _about(knob)) for name, knob in knobs(cls).items()}


def _values(words: Sequence[str], parameters: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    """What the words of `run` set: IN, OUT and parameters."""
    options = _Parser(
        prog="scdance run",
        usage="scdance run TASK IN OUT [--method METHOD] [--PARAMETER VALUE …]",
        description="Run a task: read IN, write it with the results to OUT. Each parameter of the tool and of the "
        "method is an option with one value; `none` is None, and commas join several.",
        argument_default=argparse.SUPPRESS,
    )
    options.add_argument("TASK")
    options.add_argument("IN", type=Path, help="an .h5ad or .h5mu file or a .zarr folder, as the task takes")
    options.add_argument("OUT", type=Path, help="where it goes with the results, a file of the same kind")
    options.add_argument("--method", help="name of a method, or folder of a saved one")
    for name, (hint, text) in parameters.items():
        plain = re.sub(r":\w+:`|``?", "", text).replace("%", "%%")
        options.add_argument(_flag(name), type=_reader(_kinds(hint)), metavar="VALUE", help=plain)
    values, left = options.parse_known_args(list(words))
    if left:
        near = nearest(left[0], [_flag(name) for name in parameters])
        msg = f"No option `{' '.join(left)}`.{near} `scdance run TASK --method METHOD --help` lists those there are."
        raise InputError(msg)
    return {name: value for name, value in vars(values).items() if name not in ("TASK", "method")}


def _about(knob: Any) -> str:
    """What a knob is, its type and its default."""
    from ._core.knobs import readable

    return f"{knob.text} ({readable(knob.hint)}; default {knob.default})"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of an annotation, or those of a written one that a word can be turned into."""
    if isinstance(hint, str):
        plain: dict[str, Any] = {"None": type(None), "int": int, "float": float, "bool": bool, "str": str, "Path": str}
        plain["Sequence[str]"] = tuple[str, ...]
        return tuple(plain[word] for word in hint.split(" | ") if word in plain)
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _reader(kinds: tuple[Any, ...]) -> Callable[[str], Any]:
    """From a word on the command line to the first of these types that takes it."""

    def read(word: str) -> Any:
        if type(None) in kinds and word.lower() == "none":
            return None
        for kind in kinds:
            with suppress(ValueError):
                return _as(kind, word)
        if any(get_origin(kind) is Literal for kind in kinds):
            return word  # the method says which words there are
        names = " or ".join("none" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in kinds)
        msg = f"{word!r} is not {names}"
        raise argparse.ArgumentTypeError(msg)

    return read


def _as(kind: Any, word: str) -> Any:
    """A word as a value of one type; ValueError if it is none."""
    if kind is bool:
        return ("false", "true").index(word.lower()) == 1
    if kind in (int, float):
        return kind(word)
    if kind is type(None):
        raise ValueError
    if get_origin(kind) is tuple:
        return tuple(_as(get_args(kind)[0], part) for part in word.split(",") if part)
    if get_origin(kind) is Literal:
        return get_args(kind)[[str(value) for value in get_args(kind)].index(word)]
    return word


# ---------------------------------------------------------------------- files


def _kind(path: Path) -> str:
    """What a file or folder holds, by its name and the mark that SpatialData leaves in its own."""
    if path.suffix == ".h5mu":
        return "MuData"
    return "SpatialData" if path.is_dir() and _is_spatial(path) else "AnnData"


def _is_spatial(folder: Path) -> bool:
    import zarr

    try:
        return "spatialdata_attrs" in zarr.open_group(folder, mode="r").attrs
    except (OSError, ValueError, KeyError):  # no zarr at all, which reading tells
        return False


def _read(path: Path) -> Any:
    if not path.exists():
        msg = f"There is no {path}; pass an .h5ad or .h5mu file or a .zarr folder."
        raise InputError(msg)
    kind = _kind(path)
    try:
        return _reading(kind, path)
    except Exception as error:  # whatever the readers stumble over, it is the file
        why = " ".join(str(error).split())
        msg = f"{path} cannot be read as {kind} ({why}); pass an .h5ad or .h5mu file or a .zarr folder."
        raise InputError(msg) from error


def _reading(kind: str, path: Path) -> Any:
    if kind == "MuData":
        import mudata

        with _columns_where_they_are():
            return mudata.read_h5mu(path)
    if kind == "SpatialData":
        import spatialdata

        return spatialdata.read_zarr(path)
    import anndata as ad

    return ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)


def _columns_where_they_are() -> Any:
    """Keep mudata from copying every column of the modalities, as its version 0.4 does; before, it also warns."""
    import mudata

    return mudata.set_options(pull_on_update=False)


def _read_reference(path: Path) -> Any:
    """Annotated cells, or a table with one row of numbers per type."""
    if path.suffix not in SEPARATORS or not path.exists():
        return _read(path)
    import pandas as pd

    try:
        return pd.read_csv(path, sep=SEPARATORS[path.suffix], index_col=0).astype(float)
    except ValueError as error:  # of parsing, decoding and converting
        msg = f"{path} is no table of profiles, one row per type and one column per gene ({error})."
        raise InputError(msg) from error


def _check_goal(path: Path, kind: str) -> None:
    """Refuse, before anything runs, a file or folder that could not be written or holds something else."""
    if path.suffix not in SUFFIXES[kind]:
        msg = f"{path} does not end in {' or '.join(SUFFIXES[kind])}, as a file for {kind} must; name it so."
        raise InputError(msg)
    is_zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
    if path.exists() and not is_zarr if path.suffix == ".zarr" else path.is_dir():
        msg = f"{path} exists and is no {path.suffix}; pass another one to write."
        raise InputError(msg)


def _write(data: Any, path: Path) -> None:
    """Write beside the goal, then rename: a run that is ended leaves no half file."""
    from ._core.objects import kind_of

    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.part{path.suffix}")
    if path.suffix == ".zarr":
        shutil.rmtree(new, ignore_errors=True)
        data.write(new) if kind_of(data) == "SpatialData" else data.write_zarr(new)
        shutil.rmtree(path, ignore_errors=True)
    elif path.suffix == ".h5mu":
        with _columns_where_they_are():
            data.write_h5mu(new, compression="gzip")
    else:
        data.write_h5ad(new, compression="gzip")
    new.replace(path)


# ---------------------------------------------------------------------- bench


def _bench(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import bench

    _no_more(rest)
    tables = {}
    for grid in bench.plan(args.plan, datasets=args.datasets, presets=args.presets):
        task = grid["task"]
        tables[task] = bench.run(
            **grid,
            seeds=range(args.seeds),
            out=args.out / f"{task}.csv",
            k=("known", "estimated"),
            jobs=args.jobs,
            threads=args.threads,
            timeout=args.timeout,
        )
    for task, rows in tables.items():
        print(bench.leaderboard(rows))
        if args.measured is not None:
            bench.measured(rows, args.measured / f"measured_{task}.csv")
