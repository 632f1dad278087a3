"""The first five minutes: every method of every task on the embedded data, on one page."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._checks import MissingPackageError
from scdance._core.task import (
    ANNOTATE,
    CLUSTER,
    DECONVOLVE,
    IMPUTE,
    JOINT_EMBED,
    MATCH_MODALITY,
    PREDICT_GENES,
    PREDICT_MODALITY,
    PREDICT_PERTURBATION,
    SPATIAL_DOMAIN,
    TASKS,
    Task,
)
from scdance._settings import logger

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # most pictures beside each other
FEWEST_COLUMNS = 3  # that the width is made for
PANEL = (3.6, 3.3)  # inches of a picture
SCORES_HEIGHT, BAR_HEIGHT = 0.9, 0.27  # inches of the scores without bars, and of a bar
MOST_TYPES, GREY = 10, "0.85"  # in colour, on a map of cells of many types; the shade of the others
MOST_METHODS = 3  # beside the floors, so that the demo stays at a minute
_APART = ", truth=given.truth"  # a truth that is no part of the object
NO_BENCHMARK = "A demo's scores are no benchmark: a few hundred cells, one seed, nothing tuned."


@dataclass(frozen=True)
class Part:
    """What the demo of one task runs on.

    Attributes
    ----------
    dataset
        Data set that it is made from, embedded or simulated.
    how
        A sentence on what is made from it, "" if it is taken as it is.
    code
        What a user types to get the objects.
    given
        Makes them: the object, and further arguments of the tool.
    truth
        Name of what is known, where the scores of the task look for it; None: what a record says was hidden.
    draw
        Figure of the object with all results, from its truth and the table of scores.
    known
        Parameters that methods get which have them.
    """

    dataset: str
    how: str
    code: str
    given: Callable[[], tuple[Any, dict[str, Any]]]
    truth: Any
    draw: Callable[[Any, Any, Task, pd.DataFrame], Figure]
    known: dict[str, Any] = field(default_factory=dict)


def demo(out: str | Path = "demo") -> pd.DataFrame:
    """Run every method on the embedded data: tables, figures, and one page that shows them and how to repeat them.

    Parameters
    ----------
    out
        Folder for ``index.html`` and, of each task, ``<task>.csv`` and ``<task>.png``; made if need be.

    Returns
    -------
    One row per task and method, the best of each task first: its scores against what is known, ``n_clusters`` where
    it finds clusters, and wall ``seconds`` of the call. Scores of other tasks are missing.

    Examples
    --------
    >>> import scdance as sd
    >>> table = sd.bench.demo("demo")  # doctest: +SKIP
    """
    import pandas as pd

    from scdance._report import page

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tables, sections = {}, {}
    for name, part in _parts().items():
        data, arguments = part.given()
        table = _table(TASKS[name], part, data, arguments)
        if len(table):
            table.to_csv(out / f"{name}.csv", lineterminator="\n")
            tables[name] = table
            sections[name] = _section(TASKS[name], part, data, table, out / f"{name}.png")
    sections["Once more"] = _once_more()
    lead = f'<p class="note"><strong>{NO_BENCHMARK}</strong></p>'
    (out / "index.html").write_text(page("scdance: the demo", sections, lead), encoding="utf-8")
    table = pd.concat(tables, names=["task"])
    return table[[*table.columns.drop("seconds"), "seconds"]]


def _table(task: Task, part: Part, data: Any, arguments: dict[str, Any]) -> pd.DataFrame:
    """Run the methods of a task one after the other on the same object, and score them; the best comes first."""
    import pandas as pd

    from scdance import metrics

    rows = {}
    for name in _shown(task):
        try:
            rows[name] = _row(task, part, data, name, arguments)
        except MissingPackageError as error:
            logger.warning("demo: without %s: %s", name, error)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    if not rows:
        return table
    first = task.metrics[0]
    table = table.sort_values(first, ascending=not metrics.get(first).higher_is_better)
    return table.dropna(axis="columns", how="all").round(3)  # not every score is defined for what was hidden


def _shown(task: Task) -> list[str]:
    """The floors and the best methods of a task, by what the benchmark has measured; all, where it has not."""
    from scdance._core import registry

    kinds = {name: registry.kind_of(registry.get(task.name, name)) for name in registry.names(task.name)}
    measured = [name for name in registry.measured_methods(task.name) if kinds.get(name) == "method"]  # best first
    no_part = ("semi-supervised", "route")  # some want labels, others are another package's
    left_out = set(measured[MOST_METHODS:]) | {name for name, kind in kinds.items() if kind in no_part}
    left_out |= {name for name, kind in kinds.items() if kind == "method" and name not in measured and measured}
    return [name for name in kinds if name not in left_out]


def _row(task: Task, part: Part, data: Any, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one method and score it."""
    from scdance import metrics, tl
    from scdance._core import registry
    from scdance._core.knobs import knobs

    own = knobs(registry.get(task.name, name))
    known = {knob: value for knob, value in part.known.items() if knob in own}
    start = time.perf_counter()
    getattr(tl, task.name)(data, method=name, **arguments, **known)
    seconds = time.perf_counter() - start
    scores = metrics.score(data, task.name, key=name, truth=part.truth)
    found = {"n_clusters": data.obs[name].nunique()} if "n_clusters" in part.known else {}
    return {**{score: scores[score].item() for score in task.metrics}, **found, "seconds": seconds}


# ---------------------------------------------------------------------- data


def _parts() -> dict[str, Part]:
    """What each task is shown on; a task without a data set is not in the demo."""
    from scdance.datasets import info, problem

    blood, lines, marrow = "pbmc_demo", "lung_lines_demo", "cite_demo"
    asked, apart = "cite_demo_rna_adt", "cite_demo_apart"
    screen, panel = "simulated_screen", "simulated_panel"
    return {
        CLUSTER.name: Part(
            dataset=blood,
            how="Methods that take a number of clusters are told that of the published types.",
            code=f'adata = sd.datasets.load("{blood}")',
            given=lambda: _loaded(blood),
            truth=info(blood)["labels_key"],
            draw=_draw_groups,
            known={"n_clusters": info(blood)["n_classes"]},
        ),
        ANNOTATE.name: Part(
            dataset=blood,
            how="Every second cell is the reference of the others, whose published types serve to score.",
            code=f'cells = sd.datasets.load("{blood}")\nref, adata = cells[::2].copy(), cells[1::2].copy()',
            given=lambda: _halves(blood),
            truth=info(blood)["labels_key"],
            draw=_draw_calls,
        ),
        SPATIAL_DOMAIN.name: Part(
            dataset=lines,
            how="No tissue with regions drawn by hand is free to give away, so these spots are simulated: mixtures of "
            "one half of the cells in layers, with so few counts that a spot alone says little. The truth of a spot is "
            "the line of most of its cells; every method is told that there are five.",
            code='given = sd.datasets.problem("spatial_domain", "lung_layers")\n'
            'adata = given.data\nadata.obs["main_line"] = given.truth',
            given=_layers,
            truth="main_line",
            draw=_draw_domains,
            known={"n_clusters": info(lines)["n_classes"]},
        ),
        DECONVOLVE.name: Part(
            dataset=lines,
            how="No spots of a real tissue with a known truth are free to give away, so these are simulated: mixtures "
            "of one half of the cells, with genes that the platform changes, spots that bleed, and ambient RNA. "
            "The other half is the reference.",
            code=f'cells = sd.datasets.load("{lines}")\n'
            "mixing, ref = sd.datasets.split_reference(cells)\n"
            f'adata = sd.datasets.simulate_visium(mixing, "{info(lines)["labels_key"]}", n_rows=20, n_cols=20)',
            given=lambda: _spots(lines),
            truth="true_prop",
            draw=_draw_shares,
        ),
        JOINT_EMBED.name: Part(
            dataset=marrow,
            how="",
            code=f'mdata = sd.datasets.load("{marrow}")',
            given=lambda: _loaded(marrow),
            truth=info(marrow)["labels_key"],
            draw=_draw_spaces,
        ),
        PREDICT_MODALITY.name: Part(
            dataset=asked,
            how="The proteins of the second donor are taken away, and foretold from genes; the first donor has both.",
            code=f'given = sd.datasets.problem("predict_modality", "{asked}")\nmdata = given.data',
            given=lambda: _asked(asked, PREDICT_MODALITY),
            truth=problem(PREDICT_MODALITY.name, asked).truth,
            draw=_draw_skill,
        ),
        MATCH_MODALITY.name: Part(
            dataset=apart,
            how="RNA and proteins of the second donor go by different names, and are matched; the first donor teaches.",
            code=f'given = sd.datasets.problem("match_modality", "{apart}")\nmdata = given.data\n'
            'mdata.obs["partner"] = given.truth',
            given=lambda: _apart(apart),
            truth="partner",
            draw=_draw_matchings,
        ),
        PREDICT_PERTURBATION.name: Part(
            dataset=screen,
            how="No screen is free to give away, so this one is simulated: a quarter of the perturbations, single "
            "genes and pairs of them, is taken away, and foretold from the others.",
            code=f'given = sd.datasets.problem("predict_perturbation", "{screen}")\nadata = given.data',
            given=lambda: _asked(screen, PREDICT_PERTURBATION),
            truth=problem(PREDICT_PERTURBATION.name, screen).truth,
            draw=_draw_changes,
        ),
        PREDICT_GENES.name: Part(
            dataset=panel,
            how="A field of view and its reference, both simulated. Some genes of the panel are taken away, and "
            "foretold from the reference.",
            code=f'given = sd.datasets.problem("predict_genes", "{panel}")\n'
            'adata, ref = given.data, given.arguments["ref"]',
            given=lambda: _asked(panel, PREDICT_GENES),
            truth=problem(PREDICT_GENES.name, panel).truth,
            draw=_draw_genes,
        ),
        IMPUTE.name: Part(
            dataset=blood,
            how="A tenth of the counted molecules is hidden first, and foretold from the others.",
            code=f'adata = sd.datasets.load("{blood}")\nsd.tl.hold_out(adata)',
            given=lambda: _partly_hidden(blood),
            truth=None,
            draw=_draw_held_out,
        ),
    }


def _loaded(name: str) -> tuple[Any, dict[str, Any]]:
    from scdance import datasets

    return datasets.load(name), {}


def _halves(name: str) -> tuple[AnnData, dict[str, Any]]:
    """Every second cell, and the others as reference."""
    from scdance import datasets

    cells = datasets.load(name)
    return cells[1::2].copy(), {"ref": cells[::2].copy(), "labels_key": datasets.info(name)["labels_key"]}


def _partly_hidden(name: str) -> tuple[AnnData, dict[str, Any]]:
    """Cells with a layer that lacks some of their molecules, for methods to read."""
    from scdance import datasets, tl

    cells = datasets.load(name)
    tl.hold_out(cells)
    return cells, {"layer": "counts_kept", "output": "counts"}


def _layers() -> tuple[AnnData, dict[str, Any]]:
    """Simulated spots in layers, with the main line of each."""
    from scdance.datasets import problem

    given = problem(SPATIAL_DOMAIN.name, "lung_layers")
    given.data.obs["main_line"] = given.truth
    return given.data, {}


def _asked(name: str, task: Task) -> tuple[Any, dict[str, Any]]:
    """Cells of which some lack the target, a screen that lacks some perturbations, or a panel that lacks genes."""
    from scdance.datasets import problem

    given = problem(task.name, name)
    return given.data, given.arguments


def _apart(name: str) -> tuple[Any, dict[str, Any]]:
    """Cells of which some go by other names in the target, and which is which."""
    from scdance.datasets import problem

    given = problem(MATCH_MODALITY.name, name)
    given.data.obs["partner"] = given.truth
    return given.data, given.arguments


def _spots(name: str) -> tuple[AnnData, dict[str, Any]]:
    """Simulated spots of one half of the cells, and the other half as reference."""
    from scdance import datasets

    key = datasets.info(name)["labels_key"]
    mixing, ref = datasets.split_reference(datasets.load(name))
    return datasets.simulate_visium(mixing, key, n_rows=20, n_cols=20), {"ref": ref, "labels_key": key}


# ---------------------------------------------------------------------- page


def _section(task: Task, part: Part, data: Any, table: pd.DataFrame, file: Path) -> str:
    """One task of the page; its figure is written to `file` as well."""
    from scdance import _report as to
    from scdance.datasets import info

    entry = info(part.dataset)
    origin = f"{part.dataset}: {entry['description']}. {entry['data_source']} ({entry['data_licence']})."
    shot = to.png(part.draw(data, part.truth, task, table))
    file.write_bytes(shot)
    names = ", ".join(table.index)
    return "\n".join(
        [
            f"<p>{to.escaped(task.text)}</p>",
            f"<p>Data: {to.escaped(origin)} {to.escaped(part.how)}</p>",
            to.table(table),
            f'<p class="quiet">{to.escaped(_legend(task, table))}</p>',
            to.image(shot, f"{task.name}: what is known beside the results of {names}, and their scores as bars"),
            "<h3>What was run</h3>",
            to.table(_what_was_run(data, table)),
            "<h3>The code to repeat it</h3>",
            to.code(_code(task, part, data, table)),
        ]
    )


def _scores(task: Task, table: pd.DataFrame) -> list[str]:
    """The scores of a task that are defined here."""
    return [name for name in task.metrics if name in table]


def _legend(task: Task, table: pd.DataFrame) -> str:
    """Which way the scores go."""
    from scdance import metrics

    ways = {name: "higher" if metrics.get(name).higher_is_better else "lower" for name in _scores(task, table)}
    told = ", ".join(f"{name} ({way} is better)" for name, way in ways.items())
    return f"{told}; seconds of the whole call. {NO_BENCHMARK}"


def _what_was_run(data: Any, table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: what it is, whom to cite, what it read, why it stopped."""
    import pandas as pd

    from scdance._report import runs_of, told

    facts = {run.called: told(run) for run in runs_of(data)}
    frame = pd.DataFrame.from_dict({name: facts[name] for name in table.index}, orient="index").fillna("–")
    frame["method"] = [text.partition(": ")[2] for text in frame["method"]]
    return frame.drop(columns=["seconds", "scdance"]).rename(columns={"method": "what it is"}).rename_axis("method")


def _code(task: Task, part: Part, data: Any, table: pd.DataFrame) -> str:
    from scdance._core.objects import kind_of
    from scdance._report import NAMES, call_of, runs_of
    from scdance.datasets import info

    runs = {run.called: run for run in runs_of(data)}
    name = NAMES[kind_of(data)]
    lines = ["import scdance as sd", "", part.code]
    for key in table.index:
        truth = "" if part.truth is None else f', truth="{part.truth}"' if isinstance(part.truth, str) else _APART
        score = f'sd.metrics.score({name}, "{task.name}", key="{key}"{truth})'
        lines += ["", call_of(runs[key], info(part.dataset)["labels_key"]), score]
    return "\n".join(lines)


def _once_more() -> str:
    from scdance import __version__
    from scdance._report import code, escaped

    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return (
        f"<p>This page was made by scdance {escaped(__version__)}, {escaped(python)}. It holds all it shows and "
        "loads nothing from anywhere. To make it anew, and a page like it of an object of yours:</p>"
        + code("scdance demo\nscdance report FILE.h5ad")
    )


# ---------------------------------------------------------------------- figures


def _panels(task: Task, table: pd.DataFrame, n: int) -> tuple[Figure, list[Axes]]:
    """A figure with places for `n` pictures, above the scores of the methods as bars."""
    import numpy as np
    from matplotlib.figure import Figure

    from scdance import pl
    from scdance._core import registry

    n_columns = _n_columns(n)
    n_rows = -(-n // n_columns)
    heights = (PANEL[1] * n_rows, SCORES_HEIGHT + BAR_HEIGHT * len(table))
    figure = Figure(figsize=(PANEL[0] * max(n_columns, FEWEST_COLUMNS), sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    panels = list(above.subplots(n_rows, n_columns, squeeze=False).ravel())
    for ax in panels[n:]:
        ax.set_axis_off()
    floors = [registry.get(task.name, name).control for name in table.index]
    shown = _scores(task, table)
    scores = np.array(below.subplots(1, len(shown), squeeze=False))
    pl.benchmark(table.reset_index().assign(control=floors), shown, ax=scores)
    return figure, panels[:n]


def _n_columns(n: int) -> int:
    """Pictures beside each other, so that the rows are about equally full."""
    n_rows = -(-n // COLUMNS)
    return -(-n // n_rows)


def _title(table: pd.DataFrame, name: str) -> str:
    return f"{name}  ({table.loc[name, 'seconds']:.1f} s)"


def _draw_groups(adata: AnnData, truth: str, task: Task, table: pd.DataFrame) -> Figure:
    """The cells by type and by each method's clusters, all in one map."""
    from scdance import pl

    adata.obsm["X_tsne"] = _tsne(_floor(adata, task, table.index))
    palette = _palette()
    adata.uns[f"{truth}_colors"] = palette[: adata.obs[truth].nunique()]
    figure, panels = _panels(task, table, 1 + len(table))
    for ax, key in zip(panels, [truth, *table.index], strict=True):
        if key != truth:
            adata.uns[f"{key}_colors"] = _like(adata, key, truth, palette)
        pl.embedding(adata, key, basis="X_tsne", ax=ax)
        ax.get_legend().remove()  # types and clusters are mere numbers here
        ax.set_title("published cell types" if key == truth else _title(table, key))
    return figure


def _draw_domains(adata: AnnData, truth: str, task: Task, table: pd.DataFrame) -> Figure:
    """The spots by what they are and by each method's domains, at their places."""
    from scdance import pl

    palette = _palette()
    adata.uns[f"{truth}_colors"] = palette[: adata.obs[truth].nunique()]
    figure, panels = _panels(task, table, 1 + len(table))
    for ax, key in zip(panels, [truth, *table.index], strict=True):
        if key != truth:
            adata.uns[f"{key}_colors"] = _like(adata, key, truth, palette)
        pl.domains(adata, key, ax=ax)
        ax.get_legend().remove()  # lines and domains are mere names here
        ax.set_title("simulated layers" if key == truth else _title(table, key))
    return figure


def _draw_calls(adata: AnnData, truth: str, task: Task, table: pd.DataFrame) -> Figure:
    """Which type each method gave to the cells of each type."""
    from scdance import pl

    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        pl.confusion(adata, key, truth, ax=ax)
        ax.set(xlabel="published cell type", ylabel="", title=_title(table, key))
    return figure


def _draw_shares(adata: AnnData, truth: str, task: Task, table: pd.DataFrame) -> Figure:
    """The spots as pies of their true and of their estimated shares."""
    from scdance import pl

    figure, panels = _panels(task, table, 1 + len(table))
    for ax, key in zip(panels, [truth, *table.index], strict=True):
        pl.proportions(adata, key, ax=ax)
        ax.set_title("true shares" if key == truth else _title(table, key))
    _one_legend(panels)
    return figure


def _draw_spaces(mdata: Any, truth: str, task: Task, table: pd.DataFrame) -> Figure:
    """The cells by type in a map of each method's space."""
    from scdance import pl

    known, shown = mdata.obs[truth].astype("category"), f"{truth}_shown"
    largest, others = list(known.value_counts().index[:MOST_TYPES]), "other types"
    mdata.obs[shown] = known.cat.set_categories([*largest, others]).fillna(others)
    mdata.uns[f"{shown}_colors"] = [*_palette()[: len(largest)], GREY]
    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        mdata.obsm["X_tsne"] = _tsne(mdata.obsm[f"X_{key}"])
        pl.embedding(mdata, shown, basis="X_tsne", ax=ax)
        ax.set_title(_title(table, key))
    _one_legend(panels)
    return figure


def _draw_held_out(adata: AnnData, truth: None, task: Task, table: pd.DataFrame) -> Figure:
    """Held-out molecules by those that each method expected."""
    from scdance import pl

    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        pl.imputation(adata, key, panels=["held_out"], ax=ax)
        ax.set_title(_title(table, key))
    widest = max((ax.get_xlim() for ax in panels), key=lambda limits: limits[1])
    for ax in panels:
        ax.set(xlim=widest, ylim=widest)
    return figure


def _draw_skill(mdata: Any, truth: Any, task: Task, table: pd.DataFrame) -> Figure:
    """The skill of each method for each protein."""
    from scdance import pl

    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        pl.modality_skill(mdata, key, truth, ax=ax)
        ax.set_title(_title(table, key))
    lowest = min(ax.get_ylim()[0] for ax in panels)
    for ax in panels:
        ax.set_ylim(max(lowest, -1), 1)
    return figure


def _draw_changes(adata: AnnData, truth: Any, task: Task, table: pd.DataFrame) -> Figure:
    """The measured change of each gene under one perturbation by that which each method foretold."""
    from scdance import pl

    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        pl.perturbation(adata, key, truth=truth, ax=ax)
        ax.set_title(f"{_title(table, key)}, {ax.get_title()}")
    return figure


def _draw_genes(adata: AnnData, truth: Any, task: Task, table: pd.DataFrame) -> Figure:
    """The correlation of each gene with what was measured, by how rare it is."""
    from scdance import pl

    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        pl.held_out_genes(adata, key, truth, genes=[], ax=ax)
        ax.set_title(_title(table, key))
    lowest, highest = min(ax.get_ylim()[0] for ax in panels), max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(lowest, highest)
    return figure


def _draw_matchings(mdata: Any, truth: Any, task: Task, table: pd.DataFrame) -> Figure:
    """How far down the likeliest partners the true ones stand."""
    from scdance import pl

    figure, panels = _panels(task, table, len(table))
    for ax, key in zip(panels, table.index, strict=True):
        pl.matching(mdata, key, truth, ax=ax)
        ax.set_title(_title(table, key))
    highest = max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(0, highest)
    return figure


def _one_legend(panels: list[Axes]) -> None:
    """Keep that of the last panel of the first row, where there is room beside it."""
    for i, ax in enumerate(panels):
        if i != _n_columns(len(panels)) - 1:
            ax.get_legend().remove()


def _palette() -> list[str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    tab20 = colormaps["tab20"]
    return [to_hex(tab20(i)) for i in (*range(0, 20, 2), *range(1, 20, 2))]  # the bright half first


def _floor(adata: AnnData, task: Task, names: Iterable[str]) -> np.ndarray:
    """The embedding of the first floor that has one."""
    from scdance._core import registry

    return adata.obsm[f"X_{next(n for n in names if registry.get(task.name, n).control and f'X_{n}' in adata.obsm)}"]


def _tsne(z: np.ndarray) -> np.ndarray:
    """Two dimensions to draw in."""
    from sklearn.manifold import TSNE

    # half of the usual iterations: a second of CPU, and the picture is the same
    return TSNE(init="pca", max_iter=500, random_state=0).fit_transform(z)


def _like(adata: AnnData, key: str, truth: str, palette: list[str]) -> list[str]:
    """A colour for each cluster: that of the type it shares most cells with, one to one; spare ones get others."""
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    shared = pd.crosstab(adata.obs[key], adata.obs[truth], dropna=False).to_numpy()
    clusters, types = linear_sum_assignment(shared, maximize=True)
    of = dict(zip(clusters.tolist(), types.tolist(), strict=True))
    spare = cycle(palette[shared.shape[1] :])
    return [palette[of[i]] if i in of else next(spare) for i in range(len(shared))]
