"""The command line: ``scdance methods | datasets | run | bench | demo``, made from the registry."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from ._checks import InputError, ScdanceError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Words after the program's name; None: those it was called with.

    Returns
    -------
    Exit status: 0, or 2 for wrong input, which is told in one sentence without a traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args, rest = _parser().parse_known_args(words)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING, format="%(message)s", stream=sys.stderr
    )
    try:
        args.command(args, rest)
    except ScdanceError as error:
        print(f"scdance: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="scdance", description="Deep-learning methods of single-cell and spatial omics."
    )
    parser.add_argument("--version", action="version", version=f"scdance {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what happens")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    methods = commands.add_parser("methods", help="list the methods of a task, or the parameters of one method")
    methods.add_argument("task", nargs="?")
    methods.add_argument("method", nargs="?")
    methods.set_defaults(command=_methods)

    datasets = commands.add_parser("datasets", help="list the data sets, or write one to a file")
    datasets.add_argument("name", nargs="?")
    datasets.add_argument("out", nargs="?", type=Path, metavar="OUT.h5ad")
    datasets.set_defaults(command=_datasets)

    run = commands.add_parser(
        "run",
        help="run a task: read IN, write OUT",
        description="The parameters of the tool and of the method follow as options: --n-clusters 8. "
        "`scdance methods TASK METHOD` lists them.",
    )
    run.add_argument("task")
    run.add_argument("data", type=Path, metavar="IN", help="an .h5ad file or .zarr folder")
    run.add_argument("out", type=Path, metavar="OUT", help="where the object goes with its results, .h5ad or .zarr")
    run.add_argument("--method", help="name of a method, or folder of a saved one")
    run.set_defaults(command=_run)

    bench = commands.add_parser("bench", help="run the grid of a golden.toml; run it again to continue")
    bench.add_argument("plan", type=Path)
    bench.add_argument("out", type=Path, help="folder of the tables, one <task>.csv each")
    bench.add_argument("--seeds", type=int, default=5, help="how many seeds (default 5)")
    bench.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    bench.add_argument("--threads", type=int, default=1, help="threads of each (default 1)")
    bench.add_argument("--datasets", nargs="*", help="only these")
    bench.set_defaults(command=_bench)

    demo = commands.add_parser("demo", help="cluster the embedded data with every method: a table and a figure")
    demo.add_argument("out", nargs="?", type=Path, default=Path("demo"), help="folder for both (default demo)")
    demo.set_defaults(command=_demo)
    return parser


def _no_more(rest: Sequence[str]) -> None:
    if rest:
        msg = f"Words that this command does not know: {' '.join(rest)}. `scdance COMMAND --help` lists those it does."
        raise InputError(msg)


def _methods(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from ._core import registry
    from ._core.knobs import knobs, readable

    _no_more(rest)
    if args.method is None:
        print(registry.methods(args.task).to_string())
        return
    cls = registry.get(args.task, args.method)
    print(inspect.getdoc(cls).partition("\nParameters\n")[0].strip(), end="\n\n")  # type: ignore[union-attr]
    for knob in knobs(cls).values():
        print(f"--{knob.name.replace('_', '-')}  {readable(knob.hint)}, default {knob.default}\n    {knob.text}")
    for name, numbers in cls.presets.items():
        print(f"--preset {name}  {numbers}")


def _datasets(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import datasets

    _no_more(rest)
    if args.name is None:
        print(datasets.table().to_string())
    elif args.out is None:
        print(datasets.load(args.name))
    else:
        _write(datasets.load(args.name), args.out)


def _run(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import tl
    from ._core import registry
    from ._core.knobs import knobs
    from ._core.method import read_saved

    task = registry.task_of(args.task)
    method = args.method or task.default
    name = read_saved(method)[0]["name"] if Path(method).is_dir() else method
    tool = getattr(tl, task.name)
    given = [p.name for p in inspect.signature(tool).parameters.values() if p.kind is p.KEYWORD_ONLY]
    options = argparse.ArgumentParser(
        prog=f"scdance run {task.name} IN OUT --method {method}", argument_default=argparse.SUPPRESS
    )
    known = knobs(registry.get(task.name, name))
    for option in dict.fromkeys([*(g for g in given if g not in ("copy", "progress")), *known]):
        reader = _reader(known[option].hint) if option in known else str
        options.add_argument(
            f"--{option.replace('_', '-')}", type=reader, help=known[option].text if option in known else None
        )
    values, unknown = options.parse_known_args(list(rest))
    _no_more(unknown)
    adata = _read(args.data)
    tool(adata, method=method, **vars(values))
    _write(adata, args.out)


def _reader(hint: Any) -> Callable[[str], Any]:
    """From a word on the command line to the type that a knob wants."""
    options = [h for h in (get_args(hint) if get_origin(hint) not in (None, tuple) else (hint,)) if h is not type(None)]
    kind = options[0] if options else str

    def read(word: str) -> Any:
        if word.lower() == "none":
            return None
        if kind is bool:
            if word.lower() not in ("true", "false"):
                raise argparse.ArgumentTypeError("true or false")
            return word.lower() == "true"
        if get_origin(kind) is tuple:
            return tuple(get_args(kind)[0](part) for part in word.split(","))
        return kind(word) if kind in (int, float) else word

    return read


def _read(path: Path) -> Any:
    import anndata as ad

    if not path.exists():
        msg = f"There is no {path}; pass an .h5ad file or a .zarr folder."
        raise InputError(msg)
    try:
        return ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)
    except (OSError, KeyError, ad._io.utils.AnnDataReadError) as error:
        msg = f"{path} cannot be read as AnnData ({error}); pass an .h5ad file or a .zarr folder."
        raise InputError(msg) from error


def _write(adata: Any, path: Path) -> None:
    """Write beside the goal, then rename: a run that is ended leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zarr":
        adata.write_zarr(path)
        return
    new = path.with_name(f".{path.name}.part")
    adata.write_h5ad(new, compression="gzip")
    new.replace(path)


def _bench(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import bench

    _no_more(rest)
    logging.getLogger("scdance").setLevel(logging.INFO)
    for task, grid in bench.plan(args.plan).items():
        if args.datasets:
            grid["datasets"] = args.datasets
        out = args.out / f"{task}.csv"
        rows = bench.run(
            task,
            seeds=range(args.seeds),
            out=out,
            k=("known", "estimated"),
            jobs=args.jobs,
            threads=args.threads,
            **grid,
        )
        print(bench.leaderboard(rows))


def _demo(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from . import bench

    _no_more(rest)
    print(bench.demo(args.out).to_string())
    print(f"\nTable and figure are in {args.out}{'/'}. A demo on 800 cells and one seed is no benchmark.")
