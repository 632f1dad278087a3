"""Writes the pages of tasks, methods and namespaces from what the package knows about itself.

Nothing here names a task, a method or a function: the pages come from ``TASKS``, the folders of methods,
their dataclass fields and docstrings, and the stubs, so they cannot fall behind.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import scdance
from scdance._core.knobs import knobs, readable
from scdance._core.method import Method
from scdance._core.registry import get, names
from scdance._core.task import TASKS, Task

PASS = "What is returned"


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


def kind_of(cls: type[Method]) -> str:
    return "floor" if cls.control else "route to another package" if cls.route else "method"


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
        ["Preprocessing", f"`{cls().recipe!r}`"],
    ]
    known = knobs(cls)
    rows = [[f"`{knob.name}`", readable(knob.hint), f"`{knob.default!r}`", plain(knob.text)] for knob in known.values()]
    presets = [[f"`{preset}`", settings(values)] for preset, values in cls.presets.items()]
    return "\n".join(
        [
            f"# {name}\n",
            f'```python\nsd.tl.{task.name}(adata, method="{name}")\n```\n',
            table(["", ""], facts),
            f"```{{eval-rst}}\n.. autoclass:: {cls.__module__}.{cls.__name__}\n   :no-index:\n```\n",
            "## Knobs\n",
            table(["keyword", "type", "default", "meaning"], rows),
            "## Presets\n\n" + table(["preset", "sets"], presets) if presets else "",
        ]
    )


def settings(values: dict[str, Any]) -> str:
    return ", ".join(f"`{knob}={value!r}`" for knob, value in values.items()) or "the defaults"


def task_page(task: Task) -> str:
    """What a task reads and gives, and its methods."""
    slots = [
        [
            f'`{slot.where}["{slot.name}"]`',
            slot.on,
            plain(slot.text),
            "where there is one" if part in task.optional else "",
        ]
        for part, slot in task.gives.items()
    ]
    rows = []
    for name in names(task.name):
        cls = get(task.name, name)
        kind = "floor" if cls.control else "route" if cls.route else "method"
        is_default = " (default)" if name == task.default else ""
        rows.append([f"[{name}]({task.name}/{name}.md){is_default}", kind, code(cls.needs), first_line(cls.__doc__)])
    pages = "\n".join(f"{task.name}/{name}" for name in names(task.name))
    return "\n".join(
        [
            f"# {task.name}\n\n{plain(task.text)} The call is {{func}}`scdance.tl.{task.name}`;"
            f" results are scored by {' and '.join(f'`{m}`' for m in task.metrics)}.\n",
            table(["method", "kind", "needs", ""], rows),
            "## What is written\n\n`{key}` is `key_added`, or the name of the method.\n",
            table(["slot", "on", "holds", ""], slots),
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


def write_leaderboards(folder: Path) -> None:
    """Write the tables of every committed benchmark file beside it, for the page that includes them."""
    for path in folder.glob("*.csv"):
        tables = scdance.bench.leaderboard(scdance.bench.read(path))
        (folder / "tables" / f"{path.stem}.md").parent.mkdir(exist_ok=True)
        (folder / "tables" / f"{path.stem}.md").write_text(tables)


def write_pages(app: Any, config: Any) -> None:
    write_leaderboards(Path(app.srcdir) / "leaderboard")
    write_methods(Path(app.srcdir) / "methods")
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
