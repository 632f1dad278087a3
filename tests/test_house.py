"""The rules of the house (docs/dev/house.md §6), read from the sources or seen in a fresh process."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "scdance"
FILES = sorted(SRC.rglob("*.py"))
STUBS = sorted(SRC.rglob("*.pyi"))

# Who may import whom: room → what of scdance it may know besides itself.
BELOW = {"_settings", "_checks"}
TOOL = BELOW | {"_core", "_docs", "pp", "graph", "metrics"}
BENCH = BELOW | {"tl", "_core", "datasets", "metrics", "pp"}
MAY_IMPORT = {
    "__init__": set(),
    "_settings": BELOW,
    "_checks": BELOW,
    "nn": BELOW,
    "graph": BELOW,
    "pp": BELOW | {"graph"},
    "_core": BELOW | {"graph", "pp"},
    "train": BELOW | {"_core.method", "_core.cells", "_core.adapter", "graph", "pp"},
    "_docs": BELOW | {"_core.task"},
    "metrics": BELOW
    | {f"_core.{name}" for name in ("task", "counts", "answers", "beside", "responses", "measured", "objects")}
    | {"graph", "pp"},
    "datasets": BELOW | {"_core.task", "pp", "graph"},
    "pl": BELOW
    | {f"_core.{name}" for name in ("task", "counts", "answers", "responses", "measured", "write")}
    | {"metrics", "pp"},
    "methods": BELOW
    | {"_core.method", "_core.cells", "_core.adapter", "_core.expression", "train", "nn", "graph", "pp"},
    "tl": TOOL,
    "_fit": TOOL,
    "_report": BELOW | {"_core", "_docs", "pl", "metrics", "pp"},
    "get": TOOL,
    "fm": TOOL | {"train"},
    "bench": BENCH | {"pl", "_report"},
    "testing": BENCH,
}
ROOMS = {*MAY_IMPORT, "cli"}
MAY_IMPORT["cli"] = ROOMS - {"methods"}
TORCH_ROOMS = {"train", "nn", "methods", "testing"}  # and graph/_torch.py
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
TORCH_SEED = r"torch\.(\w+\.)?(manual_seed(_all)?|seed(_all)?)"
ROUTES, HANDED_ON = {"adapter", "_route", "_scvi"}, {"anndata", "mudata"}  # bases of adapters; what these may make
SAID_BY_NAME = {"_settings", "_checks", "_docs", "_fit", "_report"}  # private files that are imported by their own name


def room(path: Path) -> str:
    """The folder of a file below src/scdance, or the file's own name at the top."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def place(path: Path, line: int) -> str:
    return f"src/scdance/{path.relative_to(SRC).as_posix()}:{line}"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


class Import(NamedTuple):
    """One import: a module such as ``scdance.graph._ops``, and what is taken from it, if anything."""

    module: str
    name: str | None
    line: int
    at_import_time: bool


def package(path: Path) -> list[str]:
    """The package that the relative imports of a file start from."""
    return ["scdance", *path.relative_to(SRC).parts[:-1]]


def is_module(dotted: str) -> bool:
    here = SRC.joinpath(*dotted.split(".")[1:])
    return dotted.split(".")[0] == "scdance" and (here.is_dir() or here.with_suffix(".py").is_file())


@cache
def imports(path: Path) -> list[Import]:
    """Every import of a file, also in functions, for type checkers only, and by ``package("name")``."""
    return list(_imports(path, tree(path), at_import_time=True))


def _imports(path: Path, node: ast.AST, *, at_import_time: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                for alias in child.names:
                    yield Import(alias.name, None, child.lineno, at_import_time)
            case ast.ImportFrom():
                base = package(path)[: len(package(path)) + 1 - child.level] if child.level else []
                module = ".".join([*base, *(child.module.split(".") if child.module else [])])
                for alias in child.names:
                    inner = f"{module}.{alias.name}"
                    is_inner = is_module(inner)
                    yield Import(
                        inner if is_inner else module,
                        None if is_inner else alias.name,
                        child.lineno,
                        at_import_time,
                    )
            case ast.Call(func=ast.Name(id=by) | ast.Attribute(attr=by), args=[ast.Constant(value=str(name)), *_]) if (
                by in {"package", "import_module"}
            ):
                yield Import(name, None, child.lineno, at_import_time)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from _imports(path, child, at_import_time=False)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(path, child, at_import_time=False)
            case _:
                yield from _imports(path, child, at_import_time=at_import_time)


def own_imports(path: Path) -> Iterator[tuple[Import, list[str]]]:
    """Imports of scdance itself, each with the parts of its module below ``scdance``."""
    for found in imports(path):
        parts = found.module.split(".")
        if parts[0] == "scdance":
            yield found, parts[1:] or [found.name or "scdance"]


@cache
def names(path: Path) -> list[tuple[str, ast.AST]]:
    """Every dotted name a file uses, spelled out: ``np.random.seed`` is ``numpy.random.seed``."""
    long: dict[str, str] = {}
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import():
                for alias in node.names:
                    first = alias.name.split(".")[0]
                    long[alias.asname or first] = alias.name if alias.asname else first
            case ast.ImportFrom(level=0, module=str(module)):
                long |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    out = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name | ast.Attribute) and (dotted := ast.unparse(node)).replace(".", "").isidentifier():
            first, _, rest = dotted.partition(".")
            out.append((f"{long.get(first, first)}{'.' if rest else ''}{rest}", node))
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            out += [(f"{node.module}.{alias.name}", node) for alias in node.names]
    return out


def uses(pattern: str, *, but: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Places that use a name which matches `pattern` wholly, outside the files in `but`."""
    found = {
        f"{place(path, node.lineno)} {name}"
        for path in FILES
        if path.relative_to(SRC).as_posix() not in but
        for name, node in names(path)
        if re.fullmatch(pattern, name)
    }
    return sorted(found)


def refuse(places: list[str]) -> None:
    """Fail with every place that breaks a rule, one a line."""
    if places:
        pytest.fail("\n".join(dict.fromkeys(places)), pytrace=False)


def in_a_fresh_process(code: str, cwd: Path) -> list[str]:
    """Run `code` where nothing has been imported; the last line it prints is a JSON list of strings."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# Who may import whom


def test_every_room_is_in_the_table():
    assert {room(path) for path in FILES} <= ROOMS


def test_no_two_rooms_import_each_other():
    below = {r: {other.split(".")[0] for other in MAY_IMPORT[r]} - {r} for r in ROOMS}
    below |= {"_settings": set(), "_checks": {"_settings"}}  # the one pair that the table leaves open
    assert list(graphlib.TopologicalSorter(below).static_order())  # CycleError where imports go in a circle
    seen: dict[str, set[str]] = {}
    for path in FILES:
        seen.setdefault(room(path), set()).update(parts[0] for _, parts in own_imports(path) if parts[0] in ROOMS)
    graphlib.TopologicalSorter({r: others - {r} for r, others in seen.items()}).prepare()


def test_each_room_imports_only_rooms_below_it():
    wrong = []
    for path in FILES:
        here = room(path)
        for found, parts in own_imports(path):
            if parts == ["__version__"] or parts[0] == here != "methods":
                continue
            is_allowed = any(parts[: len(other)] == other for other in (a.split(".") for a in MAY_IMPORT[here]))
            is_namesake = here == "methods" and parts[0] == "methods" and parts[-1] == path.stem
            # what methods of one task share stands beside them, in a file that begins with "_"
            is_namesake |= here == "methods" and parts[:2] == ["methods", path.parent.name] and parts[-1][0] == "_"
            is_list = path == SRC / "methods" / "__init__.py" and parts[:2] == ["_core", "registry"]
            if not (is_allowed or is_namesake or is_list):
                wrong.append(f"{place(path, found.line)}: {here} imports {'.'.join(parts)}")
    refuse(wrong)


def test_nothing_imports_methods():
    wrong = [
        place(path, found.line)
        for path in FILES
        if room(path) != "methods"
        for found, parts in own_imports(path)
        if parts[0] == "methods"
    ]
    refuse(wrong)


def test_only_folders_that_are_lists_and_optional_packages_are_imported_by_a_computed_name():
    refuse(uses(r"__import__|exec|eval|importlib\.util\.(spec_from_file_location|module_from_spec)"))
    computed = [
        place(path, node.lineno)
        for path in FILES
        if path.relative_to(SRC).as_posix() not in {"_core/registry.py", "_checks.py", "metrics/_metric.py"}
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and not isinstance(node.args[0], ast.Constant)
    ]
    refuse(computed)


def test_private_files_are_reached_through_the_init_of_their_folder():
    wrong = []
    for path in FILES:
        for found, parts in own_imports(path):
            if ["scdance", *parts[:-1]] == package(path):
                continue  # a neighbour in the same folder
            private = [part for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
            is_said_by_name = parts[0] in SAID_BY_NAME or (parts[0] == "_core" and private == ["_core"])
            if private and not is_said_by_name:
                wrong.append(f"{place(path, found.line)} {found.module}")
    refuse(wrong)


@pytest.mark.parametrize("package_name", ["anndata", "mudata", "spatialdata", "scanpy"])
def test_methods_nets_graphs_and_training_know_arrays_only(package_name: str):
    wrong = [
        place(path, found.line)
        for path in FILES
        if room(path) in {"methods", "nn", "graph", "train"} and not (is_route(path) and package_name in HANDED_ON)
        for found in imports(path)
        if found.module.split(".")[0] == package_name
    ]
    refuse(wrong)


def is_route(path: Path) -> bool:
    """Whether a file of methods adapts another package: it makes the objects, out of arrays, that this one takes."""
    return room(path) == "methods" and any(found.module.split(".")[-1] in ROUTES for found in imports(path))


def may_import_torch(path: Path) -> bool:
    return room(path) in TORCH_ROOMS or path == SRC / "graph" / "_torch.py"


def test_torch_is_imported_at_import_time_only_where_nets_live():
    wrong = [
        place(path, found.line)
        for path in FILES
        if not may_import_torch(path)
        for found in imports(path)
        if found.at_import_time and found.module.split(".")[0] in {"torch", "torch_geometric", "lightning", "dgl"}
    ]
    refuse(wrong)


def test_importing_every_other_file_loads_no_torch(tmp_path: Path):
    modules = [
        ".".join(["scdance", *path.relative_to(SRC).with_suffix("").parts]).removesuffix(".__init__")
        for path in FILES
        if not may_import_torch(path) and path.name != "__main__.py"
    ]
    code = f"""
import importlib, json, sys
guilty = [name for name in {modules!r} if importlib.import_module(name) and "torch" in sys.modules]
print(json.dumps(guilty[:1]))
"""
    assert in_a_fresh_process(code, tmp_path) == []


# What no file does


def test_nothing_prints():
    refuse(uses(r"print|pprint\.pprint|sys\.stdout\.write", but={"cli.py"}))


def test_warning_filters_and_the_root_logger_stay_as_the_user_had_them():
    refuse(uses(r"warnings\.(filterwarnings|simplefilter|resetwarnings)"))
    refuse(uses(r"logging\.(basicConfig|disable|debug|info|warning|error|critical|exception|log)"))


def test_no_global_seed_and_no_draw_from_a_global_generator():
    own = "default_rng|Generator|BitGenerator|SeedSequence|RandomState|PCG64|Philox|MT19937|get_state"
    keep = {"_core/method.py", "testing/_trial.py"}  # they put the states back; seeding, below, has no exception
    refuse(uses(rf"numpy\.random\.(?!({own})\b)\w+", but=keep))
    refuse(uses(r"random\.(?!(Random|SystemRandom|getstate)\b)\w+", but=keep))


def test_nothing_is_seeded_but_torch_in_training_and_igraph_in_partitions():
    refuse(uses(r"(numpy\.)?random\.seed|(.*\.)?seed_everything"))
    training = {"train/_torch_method.py", "train/_loop.py"}
    refuse(uses(rf"{TORCH_SEED}|torch\.(\w+\.)?set_rng_state(_all)?", but=training))
    refuse(uses(r"(.*\.)?set_random_number_generator", but={"graph/_partition.py"}))


def test_torch_is_seeded_inside_fork_rng():
    wrong = []
    for path in (path for path in FILES if room(path) == "train"):
        forked = {
            id(inner)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
            for inner in ast.walk(node)
        }
        wrong += [
            place(path, node.lineno)
            for name, node in names(path)
            if re.fullmatch(TORCH_SEED, name) and id(node) not in forked
        ]
    refuse(wrong)


def test_only_the_loop_has_an_optimiser_and_goes_backward():
    refuse(uses(r"torch\.optim\b.*", but={"train/_loop.py"}))
    calls = [
        place(path, node.lineno)
        for path in FILES
        if path != SRC / "train" / "_loop.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward"
    ]
    refuse(calls)


def test_nothing_is_pickled():
    refuse(uses(r"(torch\.save|joblib\.(load|dump))|(.*\.)?(to_pickle|read_pickle)"))
    wrong = [
        place(path, node.lineno)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords)
    ]
    wrong += [
        place(path, found.line)
        for path in FILES
        for found in imports(path)
        if (found.module.split(".")[0] in PICKLERS and found.name != "UnpicklingError")  # an error may be caught
        or (found.module == "joblib" and found.name in {"dump", "load"})
    ]
    wrong += [
        place(path, node.value.lineno)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    refuse(wrong)


# The public names


LAZY = """\
import lazy_loader as _lazy
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
"""


def test_every_init_is_lazy():
    for path in FILES:
        if path.name != "__init__.py" or room(path) in {"_core", "methods"}:
            continue
        lines = path.read_text().replace('__version__ = "', "# ").splitlines(keepends=True)
        code = [line for line in lines if line.startswith(("import", "from", "__"))]
        assert "".join(code) == LAZY, path
        assert path.with_suffix(".pyi").is_file(), path


def test_core_and_the_folders_of_methods_have_empty_inits():
    for path in FILES:
        if path.name == "__init__.py" and room(path) in {"_core", "methods"} and path.parent != SRC / "methods":
            assert [n for n in tree(path).body if not isinstance(n, ast.Expr)] == [], path


def public_names() -> list[tuple[str, str]]:
    out = []
    for stub in STUBS:
        module = ".".join(package(stub))
        for node in ast.walk(ast.parse(stub.read_text())):
            if isinstance(node, ast.ImportFrom):
                out += [(module, alias.asname or alias.name) for alias in node.names]
    return out


@pytest.mark.parametrize(("module", "name"), public_names(), ids=lambda value: value)
def test_every_name_in_a_stub_can_be_reached(module: str, name: str):
    there = importlib.import_module(module)
    assert name in dir(there)
    assert getattr(there, name) is not None


def test_no_public_name_is_also_a_folder_or_file_that_would_replace_it_once_imported():
    taken = [
        f"{path.relative_to(SRC).as_posix()}: {alias.asname}"
        for path in STUBS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module  # `from . import tl` means the folder itself
        for alias in node.names
        if is_module(".".join([*package(path), alias.asname or alias.name]))
    ]
    refuse([name for name in taken if name != "__init__.pyi: methods"])  # that folder answers the call itself


def test_methods_can_be_called_before_and_after_one_is_imported(tmp_path: Path):
    code = """
import json
import scdance as sd
first = sd.methods("cluster").index.tolist()
import scdance.methods.cluster.kmeans
print(json.dumps([first, sd.methods("cluster").index.tolist()]))
"""
    first, second = in_a_fresh_process(code, tmp_path)
    assert "kmeans" in first
    assert first == second


def test_import_scdance_loads_the_standard_library_and_lazy_loader_only(tmp_path: Path):
    code = """
import json, sys
before = set(sys.modules)  # an editable install may load files of its own at start
import scdance
roots = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names) - {"scdance", "lazy_loader"})))
"""
    assert in_a_fresh_process(code, tmp_path) == []


def test_a_floor_runs_without_torch_and_leaves_no_file(tmp_path: Path):
    code = """
import json, sys
import anndata, numpy
import scdance as sd

rng = numpy.random.default_rng(0)
counts = rng.poisson(numpy.repeat(rng.gamma(1, 2, (3, 60)), 40, axis=0)).astype("float32")
adata = anndata.AnnData(counts)
sd.tl.cluster(adata, method="kmeans", n_clusters=3)
assert adata.obs["kmeans"].nunique() == 3
print(json.dumps([name for name in ("torch", "squidpy", "spatialdata") if name in sys.modules]))
"""
    assert in_a_fresh_process(code, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


# The methods


def all_methods() -> list[tuple[str, str]]:
    return [
        (folder.name, path.stem)
        for folder in sorted((SRC / "methods").glob("*/"))
        for path in sorted(folder.glob("[!_]*.py"))
    ]


def method_class(task: str, name: str) -> type:
    registry = importlib.import_module("scdance._core.registry")
    return registry.get(task, name)


GOLDEN = tomllib.loads(Path(__file__).with_name("golden.toml").read_text())
each_method = pytest.mark.parametrize(("task", "name"), all_methods(), ids=lambda value: value)


def test_the_folder_is_the_list_of_methods():
    registry = importlib.import_module("scdance._core.registry")
    tasks = {task for task, _ in all_methods()}
    assert {(task, name) for task in tasks for name in registry.names(task)} == set(all_methods())


def test_every_golden_row_has_a_method():
    assert {(task, name) for task, rows in GOLDEN.items() for name in rows} <= set(all_methods())


@each_method
def test_every_method_has_a_golden_row_with_a_toy_floor(task: str, name: str):
    row = GOLDEN[task][name]
    assert isinstance(row["toy"], float)  # below 0 where the score is a relative loss
    assert set(row) <= {"toy", "knobs", "variants", "real"}
    for data in row.get("real", {}).values():
        assert set(data) <= {"score", "spread", "paper", "where"}
        assert ("score" in data) == ("spread" in data)
        assert ("paper" in data) == ("where" in data)


@each_method
def test_every_method_cites_an_entry_of_the_references(task: str, name: str):
    entries = set(re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "docs" / "references.bib").read_text(), flags=re.M))
    assert method_class(task, name).cite in entries


@each_method
@pytest.mark.parametrize("section", ["When to use", "When not", "Differs from the paper"])
def test_every_method_says_when_to_use_it_and_how_it_differs(task: str, name: str, section: str):
    text = section_of(inspect.cleandoc(method_class(task, name).__dict__["__doc__"]), section)
    assert len(text.split()) >= 5
    others = [other for other in all_methods() if other != (task, name)]
    assert text not in [section_of(inspect.cleandoc(method_class(*o).__dict__["__doc__"]), section) for o in others]


def section_of(doc: str, title: str) -> str:
    """The text of a section of a numpydoc docstring, up to the next underlined title."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", doc, flags=re.M | re.S)
    return found.group(1).strip() if found else ""


@each_method
def test_no_method_has_more_than_400_lines(task: str, name: str):
    assert len((SRC / "methods" / task / f"{name}.py").read_text().splitlines()) <= 400


def test_names_of_methods_and_tasks_stand_in_their_source_only():
    known = {name for pair in all_methods() for name in pair}
    wrong = []
    for path in FILES:
        if room(path) in {"methods", "graph"}:  # graph names ways to cut a graph, which are not methods
            continue
        for node in ast.walk(tree(path)):
            items = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else []
            items = node.keys if isinstance(node, ast.Dict) else items
            said = {item.value for item in items if isinstance(item, ast.Constant)} & known
            if len(said) >= 3:
                wrong.append(f"{place(path, node.lineno)} {sorted(said)}")
    refuse(wrong)
