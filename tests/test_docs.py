"""The documentation: its pages are written without Sphinx here; `make docs` builds them, and runs the tutorials."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scdance._core import registry
from scdance._core.task import TASKS

ROOT = Path(__file__).parent.parent
DOCS, SRC = ROOT / "docs", ROOT / "src" / "scdance"
FENCE, HEADING, UNDERLINED = r"^(```|:::)", r"^#+ ", r"^(\S[^\n]*)\n-{3,}$"
METHODS = [(task, name) for task in TASKS for name in registry.names(task)]
each_method = pytest.mark.parametrize(("task", "name"), METHODS, ids=lambda value: value)


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_methods", DOCS / "_methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "methods"
    pages.write_methods(folder)
    return folder


# ------------------------------------------------------------------ pages of tasks and methods


def sections(page: str) -> dict[str, str]:
    """Text under each heading up to the next one of any level; what is fenced is text, too."""
    found: dict[str, list[str]] = {}
    title, fenced = "", False
    for line in page.splitlines():
        fenced ^= bool(re.match(FENCE, line))
        if re.match(HEADING, line) and not fenced:
            title = line.lstrip("# ")
            found[title] = []
        elif title:
            found[title].append(line)
    return {title: "\n".join(lines).strip() for title, lines in found.items()}


def is_empty(text: str) -> bool:
    """Whether there is nothing, or a table without a row."""
    lines = text.splitlines()
    return not text or any(
        set(line) <= set("|- ") and "|" in line and (i + 1 == len(lines) or not lines[i + 1].startswith("|"))
        for i, line in enumerate(lines)
    )


@pytest.mark.parametrize("page", ["# a\n\n## b\n\ntext\n", "# a\n\n| x |\n| --- |\n", "# a\n\ntext\n\n## b\n"])
def test_an_empty_section_is_seen(page: str):
    assert any(is_empty(text) for text in sections(page).values())


def test_every_task_and_method_has_a_page(written: Path):
    wanted = {"index.md", *(f"{task}.md" for task in TASKS), *(f"{task}/{name}.md" for task, name in METHODS)}
    assert {path.relative_to(written).as_posix() for path in written.rglob("*.md")} == wanted


@pytest.mark.parametrize("task", TASKS)
def test_no_page_has_an_empty_section(written: Path, task: str):
    for path in [written / f"{task}.md", *(written / task).iterdir()]:
        assert [title for title, text in sections(path.read_text()).items() if is_empty(text)] == [], path


@each_method
def test_no_docstring_of_a_method_has_an_empty_section(task: str, name: str):
    parts = re.split(UNDERLINED, inspect.getdoc(registry.get(task, name)), flags=re.M)
    assert parts[0].strip().count("\n") > 0  # an idea, not only a title
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert {"When to use", "When not", "Differs from the paper"} <= set(texts)
    assert [title for title, text in texts.items() if not text.strip()] == []


@each_method
def test_a_page_says_all_that_a_method_is(written: Path, task: str, name: str, golden: dict[str, Any]):
    page = (written / task / f"{name}.md").read_text()
    found = sections(page)
    assert {"What it writes", "Recipe", "Knobs", "Golden numbers"} <= set(found)
    assert f'method="{name}"' in found[name]
    assert registry.get(task, name).cite in found[name]
    assert f"src/scdance/methods/{task}/{name}.py" in found[name]
    for part in TASKS[task].gives.keys() - TASKS[task].optional:
        assert slot_of(task, part, name) in found["What it writes"]
    row = golden[task][name]
    assert f"{row['toy']}" in found["Golden numbers"]
    for data, numbers in row.get("real", {}).items():
        line = next(line for line in found["Golden numbers"].splitlines() if line.startswith(f"| `{data}`"))
        measured = f"{numbers['score']:.3f} ± {numbers['spread']:.3f}" if "score" in numbers else "not yet"
        assert measured in line
        assert "paper" not in numbers or f"| {numbers['paper']} |" in line


def slot_of(task: str, part: str, key: str) -> str:
    slot = TASKS[task].gives[part]
    whole = key + TASKS[task].suffix.format(target="<target>")
    return f"`{slot.on}.{slot.where}[{slot.name.format(key=whole)!r}]`"


@pytest.mark.parametrize(("name", "has_proba"), [("gmm", True), ("kmeans", False), ("leiden", False)])
def test_a_page_lists_an_optional_slot_where_the_method_has_it(written: Path, name: str, has_proba: bool):
    page = (written / "cluster" / f"{name}.md").read_text()
    assert (slot_of("cluster", "proba", name) in page) == has_proba


def test_every_file_that_a_page_links_to_is_there(written: Path):
    for path in written.glob("*/*.md"):
        for target in re.findall(r"\{download\}`[^<]*<([^>]+)>`", path.read_text()):
            # the folder of the pages is there only after a build
            assert Path(os.path.normpath(DOCS / "methods" / path.parent.name / target)).is_file(), target


def test_the_tutorials_are_copied_to_where_sphinx_reads(pages: ModuleType, tmp_path: Path):
    pages.write_tutorials(tmp_path / "tutorials")
    for name in ("clustering.ipynb", "tissue.ipynb"):
        assert (tmp_path / "tutorials" / name).read_bytes() == (ROOT / "tutorials" / name).read_bytes()


def test_every_table_of_the_leaderboard_gets_a_page_and_every_page_has_a_table(pages: ModuleType, tmp_path: Path):
    rows = (DOCS / "leaderboard" / "cluster.csv").read_text()
    for name in ("cluster", "deconvolve"):
        (tmp_path / f"{name}.csv").write_text(rows)
    (tmp_path / "cluster.md").write_text("# Clustering\n")
    pages.write_leaderboards(tmp_path, tmp_path / "plain")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["deconvolve.md"]
    tables = (tmp_path / "tables" / "deconvolve.md").read_text()
    assert "| graphsc |" in tables
    assert (tmp_path / "plain" / "deconvolve.md").read_text().endswith(tables)
    board = DOCS / "leaderboard"
    assert {path.stem for path in board.glob("*.md")} <= {path.stem for path in board.glob("*.csv")}


# ------------------------------------------------------------------ the interface


def public() -> dict[str, Any]:
    """Functions and classes of the stubs by their full name."""
    found = {}
    for stub in SRC.rglob("__init__.pyi"):
        module = ".".join(("scdance", *stub.parent.relative_to(SRC).parts))
        for node in ast.walk(ast.parse(stub.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    found[f"{module}.{alias.name}"] = getattr(importlib.import_module(module), alias.name)
    return {name: value for name, value in sorted(found.items()) if inspect.isclass(value) or inspect.isfunction(value)}


PUBLIC = public()
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value) and not issubclass(value, Exception)]
SLOW = {"scdance.pl.embedding"}  # it compiles UMAP
RUN_ELSEWHERE = {*(f"scdance.tl.{task}" for task in TASKS), "scdance.fit", "scdance.load", "scdance.methods"}


def titles(value: Any) -> list[str]:
    return re.findall(UNDERLINED, inspect.getdoc(value) or "", flags=re.M)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_documents_each_parameter_and_has_an_example(name: str):
    function = PUBLIC[name]
    signature = inspect.signature(function)
    wanted = {"Examples"} | ({"Parameters"} if signature.parameters else set())
    if signature.return_annotation not in ("None", None):
        wanted.add("Returns")
    assert wanted <= set(titles(function))
    heads = re.findall(r"^(\*{0,2}\w+(?:, \w+)*)$", inspect.getdoc(function), flags=re.M)
    said = {word.strip("*") for head in heads for word in head.split(", ")}
    assert set(signature.parameters) <= said


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_that_refuses_something_says_what(name: str):
    if re.search(r"^\s*(raise |one_of\(|whole_number\()", inspect.getsource(PUBLIC[name]), flags=re.M):
        assert "Raises" in titles(PUBLIC[name])


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_class_documents_what_it_takes_or_holds(name: str):
    is_protocol = getattr(PUBLIC[name], "_is_protocol", False)
    assert is_protocol or {"Parameters", "Attributes"} & set(titles(PUBLIC[name]))


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in SLOW | RUN_ELSEWHERE])
def test_the_examples_of_the_interface_run_as_printed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    value = PUBLIC[name]
    module = importlib.import_module(value.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(value, name, module):
        runner.run(test, out=said.append)
    import matplotlib.pyplot as plt

    plt.close("all")
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert list(tmp_path.iterdir()) == []  # nothing is written that the user did not ask for


# ------------------------------------------------------------------ the tutorials


@pytest.mark.parametrize("path", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_tutorial_is_kept_without_outputs_and_is_in_the_contents(path: Path):
    cells = json.loads(path.read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert f"tutorials/{path.stem}\n" in (DOCS / "index.md").read_text()
