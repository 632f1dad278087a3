"""Writes the pages of tasks, methods and namespaces from what the package knows about itself.

Nothing here names a task, a method or a function: the pages come from ``TASKS``, the folders of methods,
their dataclass fields and docstrings, and the stubs, so they cannot fall behind.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import scdance
from scdance._checks import MissingPackageError
from scdance._core.knobs import knobs, readable
from scdance._core.method import Method
from scdance._core.registry import get, kind_of, names
from scdance._core.task import TASKS, Task
from scdance.pp import Recipe
from scdance.testing import Trial

PASS = "What is returned"
ROOT = Path(__file__).parent.parent
BOARDS = ROOT / "docs" / "leaderboard"
WAYS = {"known": "known", "estimated": "estimated", "": "–"}  # of the number of clusters


def table(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines) + "\n"


def cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def plain(text: str) -> str:
    """Inline reST of a docstring as Markdown."""
    text = re.sub(r":[\w:]+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return re.sub(r"\[(\w+\d{4})\]_", r"{cite:p}`\1`", text)


def first_line(doc: str | None) -> str:
    return plain((doc or "").strip().split("\n\n")[0].replace("\n", " "))


def code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def call(task: Task, name: str) -> str:
    """The line to type, with what the tool takes before the method."""
    parameters = list(inspect.signature(getattr(scdance.tl, task.name)).parameters)
    words = [*parameters[: parameters.index("method")], f'method="{name}"']
    if "labels_key" in parameters:
        words.append('labels_key="cell_type"')
    if "targets" in parameters:
        words += ['perturbation_key="perturbation"', 'targets=["STAT1"]']
    return f"```python\nsd.tl.{task.name}({', '.join(words)})\n```\n"


def method_page(task: Task, name: str) -> str:
    """Everything that one method says about itself."""
    cls = get(task.name, name)
    facts = [
        ["Paper", f"{{cite:p}}`{cls.cite}`"],
        ["Kind", kind_of(cls)],
        ["Needs", code(cls.needs)],
        ["Takes when given", code(cls.uses)],
        ["Answers for new cells", "yes" if cls.inductive else "no"],
        ["Keeps of the training data", code(cls.keeps)],
        ["Optional packages", code(tuple(extra for _, extra in cls.extras))],
        ["Its one file", file_of(cls)],
    ]
    known = knobs(cls)
    rows = [[f"`{knob.name}`", readable(knob.hint), f"`{knob.default!r}`", plain(knob.text)] for knob in known.values()]
    presets = [[f"`{preset}`", settings(values)] for preset, values in cls.presets.items()]
    return "\n".join(
        [
            f"# {name}\n",
            call(task, name),
            table(["", ""], facts),
            f"```{{eval-rst}}\n.. autoclass:: {cls.__module__}.{cls.__name__}\n   :no-index:\n```\n",
            "## What it writes\n\nAs seen in a run on toy data. With `key_added=` the slots have that name instead.\n",
            table(["slot", "holds"], [row[:2] for row in slots(task, name, written(task, name))]),
            "## Recipe\n\nWhat happens to a private copy of the input before the method sees it, in this order, with "
            "the default knobs. `recipe=None` leaves it out.\n",
            recipe(cls().recipe),
            "## Knobs\n",
            table(["keyword", "type", "default", "meaning"], rows),
            "## Presets\n\n" + table(["preset", "sets"], presets) if presets else "",
            "## Golden numbers\n",
            golden(task, name),
            board(task, name),
        ]
    )


def file_of(cls: type[Method]) -> str:
    """The path in the repository, linked to a copy of the file; a plug-in's module has none."""
    path = Path(inspect.getfile(cls))
    if not path.is_relative_to(ROOT):
        return f"`{cls.__module__}`"
    path = path.relative_to(ROOT)
    return f"{{download}}`{path} <../../../{path}>`"


def written(task: Task, name: str) -> set[str]:
    """The parts of a result that a method gives: those that a quick run on toy data leaves in the object.

    Where a package is missing that the method needs, those that every method of the task gives.
    """
    trial = Trial(name, task.name, knobs=golden_rows().get(task.name, {}).get(name, {}).get("knobs"))
    first = trial.first
    if isinstance(first.error, MissingPackageError):
        return set(task.gives) - set(task.optional)
    if first.error:
        raise first.error
    return set(trial.results(first.after))


def slots(task: Task, key: str, parts: Iterable[str]) -> list[list[str]]:
    """What a result is made of: slot, content, and whether only some methods have it; the record comes last."""
    rows = [
        [
            f"`{task.place(part, key)}`",
            plain(slot.text),
            "where the method has it" if part in task.optional else "",
        ]
        for part, slot in task.gives.items()
        if part in parts
    ]
    record = f"`{task.owner}.uns['scdance']['{task.name}']['{task.run_key(key)}']`"
    return [*rows, [record, "the run record: method, knobs, seed, input, history, seconds", ""]]


def recipe(found: Recipe | dict[str, Recipe]) -> str:
    """The steps with their numbers; by kind of modality where there are several."""
    several = found if isinstance(found, dict) else {"": found}
    steps = importlib.import_module("scdance.pp._recipe")
    rows = [
        [kind, f"`{step}`", settings(numbers), first_line(inspect.getdoc(getattr(steps, step)))]
        for kind, each in several.items()
        for step, numbers in each.steps.items()
    ]
    if not rows:
        return "The values are taken as they are.\n"
    head = ["modality", "step", "with", "which does"]
    return table(head, rows) if len(several) > 1 else table(head[1:], [row[1:] for row in rows])


@cache
def golden_rows() -> dict[str, dict[str, Any]]:
    """What the tests hold each method to."""
    return tomllib.loads((ROOT / "tests" / "golden.toml").read_text())


def golden(task: Task, name: str) -> str:
    """What the tests ask of a method, what was measured on real data, and what its paper says."""
    row = golden_rows().get(task.name, {}).get(name, {})
    score = scdance.metrics.get(task.metrics[0])
    lines = []
    if "toy" in row:
        bound = "at least" if score.higher_is_better else "at most"
        lines.append(f"On toy data every commit must reach `{score.name}` {bound} {row['toy']}.")
    real = [
        [
            f"`{data}`",
            with_spread(found["score"], found["spread"]) if "score" in found else "not yet",
            found.get("paper", "–"),
            cited(found.get("where", "–")),
        ]
        for data, found in row.get("real", {}).items()
    ]
    if not real:
        lines.append("On real data nothing has been measured yet.")
        return "\n\n".join(lines) + "\n"
    lines.append(
        f"On real data, `{score.name}` with all defaults, mean ± standard deviation over the seeds. The paper's "
        "number stands beside ours, measured by its authors in their own way."
    )
    return "\n\n".join([*lines, table(["data set", "measured", "paper", "where"], real)])


def with_spread(score: float, spread: float) -> str:
    """A mean and its standard deviation, as far as they are numbers."""
    if score != score:
        return "–"
    return f"{score:.3f}" + (f" ± {spread:.3f}" if spread == spread else "")


def cited(text: str) -> str:
    return re.sub(r"\b([A-Z][a-z]+\d{4})\b", r"{cite:t}`\1`", text)


def board(task: Task, name: str) -> str:
    """The rows of one method in the table of its task, "" where there are none."""
    path = BOARDS / f"{task.name}.csv"
    if not path.is_file():
        return ""
    rows = scdance.bench.read(path)
    rows = rows[rows["method"] == name]
    if rows.empty:
        return ""
    scores = [score for score in task.metrics if score in rows]  # a file may be from before one was added
    lines = [
        [
            f"`{row['dataset']}`",
            row["variant"],
            WAYS[row["k"]],
            *(with_spread(row[score], row[f"{score}_sd"]) for score in scores),
            f"{row['cpu_seconds']:.1f}",
            row["n_seeds"] - row["n_failed"],
        ]
        for row in scdance.bench.summary(rows).to_dict("records")
    ]
    head = ["data set", "row", "number of clusters", *(f"`{score}`" for score in scores), "CPU s", "seeds"]
    if rows["n_clusters"].isna().all():
        head, lines = drop(head, 2), [drop(line, 2) for line in lines]
    text = f"The rows of this method; the [leaderboard](../{board_page(task)}) has those of the others."
    return f"## In the leaderboard\n\n{text}\n\n{table(head, lines)}"


def board_page(task: Task) -> str:
    """Where the leaderboard of a task is, seen from ``methods/``: what somebody wrote, or else what is generated."""
    is_written = (BOARDS / f"{task.name}.md").is_file()
    return f"../leaderboard/{task.name}.md" if is_written else f"leaderboard/{task.name}.md"


def drop(line: list[Any], i: int) -> list[Any]:
    return [*line[:i], *line[i + 1 :]]


def settings(values: dict[str, Any]) -> str:
    return ", ".join(f"`{knob}={value!r}`" for knob, value in values.items()) or "the defaults"


def task_page(task: Task) -> str:
    """What a task reads and gives, and its methods."""
    rows = []
    for name in names(task.name):
        cls = get(task.name, name)
        is_default = " (default)" if name == task.default else ""
        link = f"[{name}]({task.name}/{name}.md){is_default}"
        rows.append([link, kind_of(cls), code(cls.needs), first_line(cls.__doc__)])
    pages = "\n".join(f"{task.name}/{name}" for name in names(task.name))
    scores = " and ".join(filter(None, [code(task.metrics[:-1]), code(task.metrics[-1:])]))
    compared = f" How they compare: [leaderboard]({board_page(task)})."
    return "\n".join(
        [
            f"# {task.name}\n\n{plain(task.text)} The call is {{func}}`scdance.tl.{task.name}`, on "
            f"{' or '.join(task.data)}; results are scored by {scores}."
            f"{compared if (BOARDS / f'{task.name}.csv').is_file() else ''}\n",
            call(task, task.default),
            "## Methods\n",
            table(["method", "kind", "needs", ""], rows),
            "## What is written\n\n`{key}` is `key_added`, or the name of the method.\n",
            table(["slot", "holds", ""], slots(task, "{key}", task.gives)),
            f"```{{toctree}}\n:hidden:\n\n{pages}\n```\n",
        ]
    )


def write_methods(folder: Path) -> None:
    """Write ``methods/`` anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for task in TASKS.values():
        (folder / task.name).mkdir(parents=True)
        (folder / f"{task.name}.md").write_text(task_page(task))
        for name in names(task.name):
            (folder / task.name / f"{name}.md").write_text(method_page(task, name))
    pages = "\n".join(TASKS)
    text = f"# Tasks and methods\n\n```{{toctree}}\n:maxdepth: 2\n\n{pages}\n```\n"
    (folder / "index.md").write_text(text)


def write_api(folder: Path) -> None:
    """Write a page per namespace, and the index: the names in the stubs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    top = {name: getattr(scdance, name) for name in sorted(dir(scdance)) if name[0] != "_"}
    rooms = {path.parent.name for path in Path(scdance.__file__).parent.glob("*/__init__.pyi")}
    spaces = sorted(rooms | {name for name, value in top.items() if inspect.ismodule(value)})
    for space in spaces:
        module = importlib.import_module(f"scdance.{space}")
        names_ = [name for name, value in inspect.getmembers(module) if is_public(name, value)]
        own = summary(f"scdance.{space}.{name}" for name in names_)
        if callable(module):  # `methods` answers the call itself
            own = f".. autofunction:: scdance._core.registry.{space}\n   :no-index:\n"
        text = f"# {space}\n\n```{{eval-rst}}\n{inspect.getdoc(module)}\n\n{own}```\n"
        (folder / f"{space}.md").write_text(text)
    own = summary(f"scdance.{name}" for name in top if name not in spaces)
    text = f"# API\n\nBy convention `import scdance as sd`.\n\n```{{eval-rst}}\n{own}```\n"
    pages = "\n".join(spaces)
    (folder / "index.md").write_text(f"{text}\n```{{toctree}}\n:maxdepth: 1\n\n{pages}\n```\n")


def is_public(name: str, value: object) -> bool:
    return name[0] != "_" and getattr(value, "__module__", "").startswith("scdance")


def summary(names: Iterable[str]) -> str:
    lines = [".. autosummary::", "   :toctree: .", "", *(f"   {name}" for name in names), ""]
    return "\n".join(lines)


def write_leaderboards(folder: Path, plain_pages: Path) -> None:
    """Write the tables of every benchmark file, for the page that includes them or as a plain page."""
    for out in (folder / "tables", plain_pages):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
    for path in folder.glob("*.csv"):
        task = TASKS[path.stem]
        tables = scdance.bench.leaderboard(scdance.bench.read(path))
        (folder / "tables" / path.with_suffix(".md").name).write_text(tables)
        if not path.with_suffix(".md").is_file():
            text = f"# {task.name}\n\n{plain(task.text)} Nobody has written about these numbers yet.\n\n{tables}"
            (plain_pages / f"{task.name}.md").write_text(text)


def write_tutorials(folder: Path) -> None:
    """Copy the tutorials to where Sphinx reads; links in what a symbolic link leads to would not be found."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (ROOT / "tutorials").glob("*.ipynb"):
        shutil.copy(path, folder)


def write_pages(app: Any, config: Any) -> None:
    write_tutorials(Path(app.srcdir) / "tutorials")
    write_methods(Path(app.srcdir) / "methods")
    write_leaderboards(BOARDS, Path(app.srcdir) / "methods" / "leaderboard")
    write_api(Path(app.srcdir) / "api" / "generated")


def before_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Cite papers, and leave the parameters of a method to the table of its page."""
    text = re.sub(r"\[(\w+\d{4})\]_", r":cite:p:`\1`", "\n".join(lines))
    # Napoleon would read the first words of *Returns* as a type; ours are text, so they pass under another title.
    text = re.sub(r"^Returns\n-+$", f"{PASS}\n{'-' * len(PASS)}", text, flags=re.M)
    if name.startswith("scdance.methods."):
        text = re.sub(r"^Parameters\n-+\n.*?(?=^\S[^\n]*\n-+$|\Z)", "", text, flags=re.M | re.S)
    lines[:] = text.split("\n")


def after_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(f".. rubric:: {PASS}", ".. rubric:: Returns") for line in lines]


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", write_pages, priority=100)
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
