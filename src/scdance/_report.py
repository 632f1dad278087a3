"""What was run, as one page that needs nothing else: records, pictures, and the code to repeat it."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse

from ._checks import InputError, MissingKeyError, ScdanceError, listed
from ._core.counts import HOLD_OUT, matrix_at
from ._core.knobs import RUN_KNOBS
from ._core.objects import check_kind, kind_of, places
from ._core.task import FRAMES, TASKS, Task
from ._core.write import ROOT

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

KINDS = ("AnnData", "MuData", "SpatialData")
NAMES = {"AnnData": "adata", "MuData": "mdata", "SpatialData": "sdata"}  # as the documentation calls them
MAPS = ("X_umap", "X_tsne")  # maps that other programs write, the first one found is drawn
MOST_GROUPS = 20  # of a column to colour by: colours that an eye can tell apart
MOST_CLUSTERS = 100  # in colour; `pl` refuses more
MOST_PIES = 1500  # spots; of more, only the main type is drawn
MOST_NAMES = 5  # genes that are named of each perturbation
MOST_VALUES = 12  # of an array that is written out
DPI = 110
MAP_SIZE, HISTORY_SIZE = (6.6, 4.2), (6.0, 3.2)  # inches
PANEL_SIZE = (3.8, 3.6)  # inches of each of several
BAR_HEIGHT, LINE_LENGTH = 0.26, 88  # inches of a bar; letters of a line of code
GENES = 256  # whose values are looked at at once
EVALUATION = "evaluation"  # note with the scores of `evaluate=True`
BYTES_PER_MB = 1e6

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem 1.2rem 4rem; max-width: 54rem; background: #fff; color: #1c2530;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #d8dee6; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; overflow-wrap: break-word; }
nav { background: #f5f7fa; border-radius: 6px; padding: .6rem 1rem; margin: 1.2rem 0; }
nav ol { margin: 0; padding-left: 1.4rem; }
a { color: #0b57a4; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid #e3e8ee; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #aab4c0; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; padding-left: .8rem; white-space: nowrap; }
pre { background: #f5f7fa; border-radius: 6px; padding: .7rem .9rem; overflow-x: auto; font-size: .86rem;
      line-height: 1.45; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption, .quiet { color: #55606e; font-size: .88rem; }
.note { border-left: 4px solid #d9a400; background: #fff9e5; padding: .5rem .9rem; }
summary { cursor: pointer; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h2 { break-after: avoid; }
  figure, pre, tr { break-inside: avoid; }
  pre { white-space: pre-wrap; }
}
"""


@dataclass(frozen=True)
class Run:
    """One run record and where it was found.

    Attributes
    ----------
    task, key, record
        What ``holder.uns["scdance"][task.name][key]`` is.
    holder
        The AnnData or MuData that holds the record and the result.
    data
        The whole object: `holder` itself, or the MuData or SpatialData around it.
    place
        Name of the modality or table, "" where it is the whole object.
    """

    task: Task
    key: str
    record: Mapping[str, Any]
    holder: Any
    data: Any
    place: str = ""

    @property
    def called(self) -> str:
        """The key that the call was given: without what the task puts behind it."""
        return self.key.removesuffix(self.task.suffix.format(target=self.record.get("target", "")))


def report(
    data: Any,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    spatial_key: str = "spatial",
    basis: str | None = None,
) -> str | Path:
    """Tell on one page what was run on an object, with what result, and how to repeat it.

    Reads the run records that the tools leave in ``uns["scdance"]`` and draws their results; nothing is computed
    anew, except that without a map the cells are drawn by two principal components of their embedding. The page is
    HTML that holds its pictures and asks for nothing on the network, so it can be sent by mail.

    Parameters
    ----------
    data
        AnnData, MuData or SpatialData that a tool has written to. The records of modalities and tables count.
    path
        File to write, such as ``"report.html"``; None: the page is returned as text.
    title
        Heading of the page; None: one that names the tasks.
    spatial_key
        Key of ``obsm`` with the coordinates of spots, (n_obs, at least 2).
    basis
        Key of ``obsm`` of the map that cells are drawn on, (n_obs, at least 2); ``"umap"`` means ``"X_umap"``.
        None: ``"X_umap"`` or ``"X_tsne"`` if there, else two principal components of the embedding of each run.

    Returns
    -------
    The path of the file, or without `path` the page as text.

    Raises
    ------
    WrongTypeError
        If the object is of another kind.
    InputError
        If it has no run record; the message says which call makes one.
    MissingKeyError
        If `basis` is not in ``obsm``; the message says what is.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters()
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=4)
    >>> sd.report(adata)[:15]
    '<!DOCTYPE html>'
    """
    from . import __version__

    check_kind(data, KINDS)
    runs = list(runs_of(data))
    if not runs:
        raise InputError(_what_to_call(kind_of(data)))
    done = dict.fromkeys(run.task.name for run in runs)
    sections = {"The object": _object(data)}
    for run in runs:
        name = f"{run.task.name} · {run.key}" + (f" · {run.place}" if run.place else "")
        sections[name] = _section(run, spatial_key, basis)
    text = page(title or f"scdance: {', '.join(done)}", sections, f"<p>Made by scdance {escaped(__version__)}.</p>")
    if path is None:
        return text
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _what_to_call(kind: str) -> str:
    task = min((task for task in TASKS.values() if kind in task.data), key=lambda task: len(task.roles))
    ref = ", ref" if "ref" in task.roles else ""
    call = f"scdance.tl.{task.name}({NAMES[kind]}{ref}, …)"
    return f"The {kind} holds no run record in `uns[{ROOT!r}]`, so there is nothing to report. First call `{call}`."


def runs_of(data: Any) -> Iterator[Run]:
    """Every run record of an object, of its modalities and of its tables."""
    kind = kind_of(data)
    holders = {} if kind == "SpatialData" else {"": data}
    holders |= data.mod if kind == "MuData" else data.tables if kind == "SpatialData" else {}
    for place, holder in holders.items():
        for name, records in holder.uns.get(ROOT, {}).items():
            if name in TASKS:  # a newer scdance may know others
                for key, record in records.items():
                    yield Run(TASKS[name], key, record, holder, data, place)


# ---------------------------------------------------------------------- pieces of a page


def escaped(value: object) -> str:
    """Text as HTML shows it."""
    return html.escape(str(value))


def page(title: str, sections: Mapping[str, str], lead: str = "") -> str:
    """A whole HTML page from sections by heading, with a table of contents; it may load nothing from anywhere."""
    items = [(f"part-{i}", escaped(name), body) for i, (name, body) in enumerate(sections.items(), 1)]
    contents = "\n".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name, _ in items)
    parts = "\n".join(f'<section id="{anchor}">\n<h2>{name}</h2>\n{body}\n</section>' for anchor, name, body in items)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escaped(title)}</h1>
{lead}
<nav aria-label="Contents">
<ol>
{contents}
</ol>
</nav>
<main>
{parts}
</main>
</body>
</html>
"""


def table(frame: pd.DataFrame) -> str:
    """A DataFrame as an HTML table; numbers with three significant digits, what is missing as a dash."""
    named = frame.rename_axis(frame.index.name or "").reset_index()
    kinds = [" class=number" if column.dtype.kind in "iuf" else "" for _, column in named.items()]
    head = "".join(f"<th scope=col{kind}>{escaped(name)}</th>" for name, kind in zip(named, kinds, strict=True))
    rows = []
    for _, row in named.astype(object).iterrows():
        first, *rest = (_shown(value) for value in row)
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        rows.append(f"<tr><th scope=row>{first}</th>{cells}</tr>")
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """Names and values as an HTML table of two columns."""
    rows = "\n".join(
        f"<tr><th scope=row>{escaped(name)}</th><td>{_shown(value)}</td></tr>" for name, value in values.items()
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def code(text: str) -> str:
    """Lines of code."""
    return f"<pre><code>{escaped(text)}</code></pre>"


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")  # with a legend that is wider than its room
    return file.getvalue()


def image(picture: bytes, alt: str, caption: str = "") -> str:
    """A PNG inside the page; `alt` is read to those who cannot see it."""
    source = base64.b64encode(picture).decode("ascii")
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{source}" alt="{escaped(alt)}">{below}</figure>'


def _shown(value: Any) -> str:
    """A value of a record or a table as HTML."""
    value = _plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, tuple):
        return escaped(listed(value, MOST_VALUES) if value else "none")
    if isinstance(value, dict):
        return "; ".join(f"{escaped(name)} {_shown(each)}" for name, each in value.items())
    return escaped(value)


def _plain(value: Any) -> Any:
    """A value of a run record as it was typed: numpy's numbers become Python's, arrays become tuples."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value


# ---------------------------------------------------------------------- the object


def _object(data: Any) -> str:
    import pandas as pd

    kind = kind_of(data)
    parts = {kind: data} if kind != "SpatialData" else {}
    parts |= data.mod if kind == "MuData" else data.tables if kind == "SpatialData" else {}
    rows = {name: _described(part) for name, part in parts.items()}
    lead = ""
    if kind == "SpatialData":
        others = {each: list(getattr(data, each)) for each in ("images", "labels", "points", "shapes")}
        lead = f"<p>{escaped('; '.join(f'{each}: {listed(names)}' for each, names in others.items()))}</p>"
    return lead + table(pd.DataFrame.from_dict(rows, orient="index"))


def _described(part: Any) -> dict[str, Any]:
    size = {"cells": part.n_obs, "features": part.n_vars}
    if kind_of(part) == "MuData":
        return {**size, "X": f"{len(part.mod)} modalities", "layers": "–", "MB": sum(map(_mb, part.mod.values()))}
    x = "–" if part.X is None else f"{type(part.X).__name__}, {part.X.dtype}"
    return {**size, "X": x, "layers": ", ".join(part.layers) or "–", "MB": _mb(part)}


def _mb(adata: Any) -> float:
    """Memory of the matrices over cells and features; what lies on disk counts 0."""
    matrices = [adata.X, *adata.layers.values()]
    parts = [(x.data, x.indices, x.indptr) if issparse(x) else (x,) for x in matrices]
    return sum(getattr(each, "nbytes", 0) for arrays in parts for each in arrays) / BYTES_PER_MB


# ---------------------------------------------------------------------- one run


def _section(run: Run, spatial_key: str, basis: str | None) -> str:
    parts = [f"<p>{escaped(run.task.text)}</p>", facts(told(run)), _picture(run, spatial_key, basis)]
    parts += [_summary(run), _history(run), _notes(run), _parameters(run)]
    parts += ["<h3>The code to repeat it</h3>", code(lines_of(run))]
    return "\n".join(part for part in parts if part)


def told(run: Run) -> dict[str, Any]:
    """What a record says of a run, in words; tables and histories apart."""
    record, cls = run.record, _class(run)
    own = f"Made from other results by sd.tl.{record['tool']}." if "tool" in record else "A method of your own."
    doc = (cls.__doc__ or "").strip().partition("\n")[0] if cls else own
    what = re.sub(r"\s*\[\w+\]_", "", doc)  # the mark of a citation in the documentation
    out = {"method": f"{record['method']}: {what}"}
    if cls and cls.control:
        out["method"] += " A floor, which others must beat."
    if cls and cls.cite:
        out["citation"] = cls.cite
    out |= {"input" if role == "cells" else role: _input(each) for role, each in _inputs(record).items()}
    out["seconds"] = record["seconds"]
    out |= {word: record[word] for word in ("epochs", "stopped", "preset") if record[word]}
    return {**out, "random_state": record["random_state"], "scdance": record["version"]}


def _inputs(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a record says of each set of cells that was read, by role."""
    given = record["input"]
    roles = {name: value for name, value in given.items() if isinstance(value, Mapping)}
    own = {name: value for name, value in given.items() if not isinstance(value, Mapping)}
    return ({"cells": own} if own else {}) | roles


def _input(given: Mapping[str, Any]) -> str:
    size = f"{given['n_obs']} × {given['n_vars']}" if given["n_vars"] else f"{given['n_obs']} cells"
    return f"{given['layer']} ({given['kind']}), {size} used; recipe: {given['recipe']}"


def _class(run: Run) -> Any:
    """The class of the method, None if it is not one of scdance."""
    from ._core import registry

    name = str(run.record["method"])
    return registry.get(run.task.name, name) if name in registry.names(run.task.name) else None


def _result(run: Run, kind: str) -> Any:
    """The first part of the result that is stored in this way; None if there is none or it was removed."""
    for slot in run.task.gives.values():
        there, name = getattr(run.holder, slot.where), slot.name.format(key=run.key)
        if slot.kind == kind and name in there:
            return there[name]
    return None


def _summary(run: Run) -> str:
    """Sizes of the clusters, mean shares of the types, or what became of the counts."""
    import pandas as pd

    main = next(iter(run.task.gives.values()))
    value = _result(run, main.kind)
    if main.kind == "category" and value is not None:
        sizes = pd.Categorical(value).value_counts(dropna=False).rename_axis("group").rename("cells")
        frame = sizes.to_frame()
        frame["share"] = frame["cells"] / len(value)
        frame.index = ["missing" if pd.isna(name) else name for name in frame.index]
        return "<h3>Sizes</h3>" + table(frame.rename_axis("group"))
    if main.kind in FRAMES and value is not None:
        frame = pd.DataFrame({"mean share": value.mean(), "largest": value.max()}).rename_axis("type")
        return "<h3>Mean proportions</h3>" + table(frame.sort_values("mean share", ascending=False))
    if main.kind == "expression" and value is not None:
        return _entries(run, value) + _evaluation(run)
    if main.kind == "profiles" and value is not None:
        change = run.holder.varm[run.task.gives["change"].name.format(key=run.key)]
        ends = {"down": change.apply(_first_names), "up": (-change).apply(_first_names)}
        frame = pd.DataFrame({"largest change": change.abs().max(), **ends}).rename_axis("perturbation")
        return "<h3>Genes that are predicted to change most</h3>" + table(frame)
    return ""


def _first_names(values: pd.Series) -> str:
    """Names of the lowest values, the lowest first."""
    return ", ".join(map(str, values.nsmallest(MOST_NAMES).index))


def _entries(run: Run, values: Any) -> str:
    """How many genes were imputed, and what became of their zeros and of their counts."""
    import pandas as pd

    flags, seen = _result(run, "flags"), _read(run)
    is_imputed = np.ones(run.holder.n_vars, dtype=bool) if flags is None else np.asarray(flags, dtype=bool)
    unit = run.record["params"].get("output", "lognorm")
    told = f"{is_imputed.sum()} of {len(is_imputed)} genes, in the unit {escaped(unit)}."
    lead = f"<h3>What was imputed</h3><p>{told}</p>"
    if seen is None or not is_imputed.any():
        return lead
    n, sums, left = np.zeros(2), np.zeros(2), np.zeros(2)  # where nothing was counted, and where something was
    for start in range(0, len(is_imputed), GENES):
        genes = start + np.flatnonzero(is_imputed[start : start + GENES])
        counted, estimates = (_dense(x[:, genes]) for x in (seen, values))
        for i, there in enumerate((counted == 0, counted > 0)):
            n[i] += there.sum()
            sums[i] += estimates[there].sum(dtype=np.float64)
            left[i] += (estimates[there] == 0).sum()
    with np.errstate(invalid="ignore"):  # a part may be empty
        frame = pd.DataFrame(
            {"share of entries": n / n.sum(), "mean estimate": sums / n, "share that is estimated as 0": left / n},
            index=pd.Index(["nothing counted", "counted"], name="entry"),
        )
    return lead + table(frame)


def _read(run: Run) -> Any:
    """The matrix in memory that a run read; None if it is not there."""
    try:
        matrix = matrix_at(run.holder, str(run.record["input"]["layer"]))
    except MissingKeyError:
        return None
    matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix
    return matrix.tocsc() if issparse(matrix) else matrix


def _dense(block: Any) -> np.ndarray:
    return block.toarray() if issparse(block) else np.asarray(block)  # type: ignore[no-any-return]


def _evaluation(run: Run) -> str:
    """How well held-out molecules were predicted, by each candidate."""
    import pandas as pd

    scores = dict(run.record.get("notes", {}).get(EVALUATION, {}))
    if not scores:
        return ""
    candidates = pd.DataFrame(scores.pop("candidates", {}))
    chosen = {name: _plain(value) for name, value in scores.pop("chosen", {}).items()}
    told = facts({**scores, "chosen": chosen or "nothing, there was one candidate"})
    compared = table(candidates.rename_axis("candidate")) if len(candidates) > 1 else ""
    return f"<h3>Prediction of held-out molecules</h3>{told}{compared}"


def _history(run: Run) -> str:
    curves = run.record.get("history", {})
    if not any(np.size(values) for values in curves.values()):
        return ""
    from . import pl

    figure, ax = _panel(HISTORY_SIZE)
    pl.history(run.holder, run.task.name, run.key, ax=ax)
    alt = f"Curves of the training of {run.key}: {', '.join(curves)} by epoch"
    return "<h3>Training</h3>" + image(png(figure), alt)


def _notes(run: Run) -> str:
    import pandas as pd

    notes = {name: value for name, value in run.record.get("notes", {}).items() if name != EVALUATION}
    tables = {name: value for name, value in notes.items() if isinstance(value, pd.DataFrame)}
    rest = {name: value for name, value in notes.items() if name not in tables}
    parts = ["<h3>Notes of the method</h3>"] if notes else []
    parts += [facts(rest)] if rest else []
    parts += [f"<p>{escaped(name)}</p>{table(value)}" for name, value in tables.items()]
    return "\n".join(parts)


def _parameters(run: Run) -> str:
    import pandas as pd

    defaults, params = _defaults(run), _params(run)
    rows = {
        name: {"value": _written(value), "default": _written(defaults[name]) if name in defaults else "–"}
        for name, value in params.items()
    }
    if not rows:
        return ""
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")
    return f"<details open><summary><strong>Parameters</strong></summary>{table(frame)}</details>"


# ---------------------------------------------------------------------- pictures


def _panel(size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure that no window system knows of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _picture(run: Run, spatial_key: str, basis: str | None) -> str:
    main = next(iter(run.task.gives.values()))
    value = _result(run, main.kind)
    if value is None:
        return "<p>The result is no longer in the object.</p>"
    if main.kind in FRAMES:
        xy = _coordinates(run, spatial_key)
        return _bars(value) if xy is None else _tissue(run, value, xy)
    if main.kind == "expression":
        return _estimates(run)
    return "" if main.kind == "profiles" else _cells(run, basis)


def _estimates(run: Run) -> str:
    """Imputed values beside the counts, and what is known of how good they are."""
    from matplotlib.figure import Figure

    from . import pl

    panels = {"counts": "imputed values of a gene by its count"}
    if str(run.record["input"]["layer"]) in [f"layers[{name!r}]" for name in run.holder.uns[ROOT].get(HOLD_OUT, {})]:
        panels["held_out"] = "held-out counts by what was expected"
    if _result(run, "genes") is not None and EVALUATION in run.record.get("notes", {}):
        panels["genes"] = "imputability of the genes"
    figure = Figure(figsize=(PANEL_SIZE[0] * len(panels), PANEL_SIZE[1]), layout="constrained")
    pl.imputation(run.holder, run.key, panels=list(panels), ax=figure.subplots(1, len(panels)))
    told = "; ".join(panels.values())
    return image(png(figure), f"{run.key}: {told}", f"{told[0].upper()}{told[1:]}.")


def _cells(run: Run, basis: str | None) -> str:
    """The cells on a map, in the colours of their groups."""
    from . import pl

    found = _map(run, basis)
    if found is None:
        return "<p>There is no embedding of two or more dimensions to draw.</p>"
    name, xy, caption = found
    column, groups = _colouring(run)
    figure, ax = _panel(MAP_SIZE)
    pl.embedding(_sketch(run, {column: groups}, {f"X_{name}": xy}), column, basis=name, ax=ax)
    if len(groups.cat.categories) < 2:
        ax.get_legend().remove()
    ax.set_title("")
    alt = f"{len(xy)} cells in two dimensions, coloured by {column}"
    return image(png(figure), alt, f"{caption} Coloured by {column}.")


def _map(run: Run, basis: str | None) -> tuple[str, np.ndarray, str] | None:
    """Name, coordinates and origin of the two dimensions to draw; None if the run has no embedding either."""
    obsm = run.holder.obsm
    names = MAPS if basis is None else (basis, f"X_{basis}")
    there = next((name for name in names if name in obsm), None)
    if there is not None:
        xy = np.asarray(obsm[there])
        if xy.ndim != 2 or xy.shape[1] < 2:
            msg = f"`obsm[{there!r}]` has shape {xy.shape}; a map needs two dimensions. Pass another `basis=`."
            raise InputError(msg)
        return there.removeprefix("X_"), xy[:, :2], f"Map: obsm[{there!r}], as it was found in the object."
    if basis is not None:
        msg = f"No {basis!r} in `obsm`; it has {listed(obsm.keys())}. Pass one of them as `basis=`, or None."
        raise MissingKeyError(msg)
    z = _result(run, "matrix")
    if z is None or z.shape[1] < 2:
        return None
    caption = f"Map: the first two principal components of the run's embedding of {z.shape[1]} dimensions."
    return "principal component", _components(np.asarray(z, dtype=np.float64)), caption


def _components(z: np.ndarray) -> np.ndarray:
    """The first two principal components, (n, 2), by the covariance: an embedding has few columns."""
    z = z - z.mean(axis=0)
    return z @ np.linalg.eigh(z.T @ z)[1][:, :-3:-1]


def _colouring(run: Run) -> tuple[str, Any]:
    """Name and values of the groups to colour by: those of the run, else the first column of `obs` that has few."""
    import pandas as pd

    obs = run.holder.obs
    labels = _result(run, "category")
    if labels is not None and labels.nunique() <= MOST_CLUSTERS:
        return run.key, labels.astype("category")
    for name, column in obs.items():
        if isinstance(column.dtype, pd.CategoricalDtype) and 2 <= len(column.cat.categories) <= MOST_GROUPS:
            return f"obs[{name!r}]", column
    return "nothing", pd.Series("cell", index=obs.index, dtype="category")


def _sketch(run: Run, obs: dict[str, Any], obsm: dict[str, Any]) -> AnnData:
    """A small object with what is drawn and the user's colours, so that theirs stays as it is."""
    import anndata as ad
    import pandas as pd

    made = ad.AnnData(obs=pd.DataFrame(obs, index=run.holder.obs_names), obsm=obsm)
    made.uns.update({key: colors for key, colors in run.holder.uns.items() if str(key).endswith("_colors")})
    return made


def _coordinates(run: Run, spatial_key: str) -> np.ndarray | None:
    """Where the spots lie; None if the object does not say, or not in a way that can be drawn."""
    whole = run.data if kind_of(run.data) == "SpatialData" else run.holder
    try:
        return places(whole, run.holder, spatial_key=spatial_key, coordinate_system="global")
    except ScdanceError:  # bars need no places
        return None


def _tissue(run: Run, shares: pd.DataFrame, xy: np.ndarray) -> str:
    from . import pl

    kind = "pies" if len(xy) <= MOST_PIES else "top"
    figure, ax = _panel(MAP_SIZE)
    pl.proportions(_sketch(run, {}, {run.key: shares, "spatial": xy}), run.key, kind=kind, ax=ax)
    ax.set_title("")
    what = {"pies": "a pie of types for each spot", "top": "each spot in the colour of its main type"}[kind]
    return image(png(figure), f"{len(xy)} spots at their places: {what}", f"{what[0].upper()}{what[1:]}, at its place.")


def _bars(shares: pd.DataFrame) -> str:
    means = shares.mean().sort_values()
    figure, ax = _panel((MAP_SIZE[0], 1 + BAR_HEIGHT * len(means)))
    ax.barh(means.index.astype(str), means, color="#9ecae1")
    ax.set(xlabel="mean share of the spots", xlim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    caption = "Bars, because the object has no coordinates of the spots."
    return image(png(figure), f"Mean share of {len(means)} types as bars", caption)


# ---------------------------------------------------------------------- the code


def lines_of(run: Run) -> str:
    """Python that repeats a run; a line stands for the object, and one for its reference."""
    there = _inputs(run.record)
    lines = ["import scdance as sd", "", f"{NAMES[kind_of(run.data)]} = ...  # the object of this page"]
    if "ref" in there:
        given = there["ref"]
        what = "cells that have the genes" if run.task.asks_genes else "annotated cells"
        what = "a table of profiles, one row per type" if given["kind"] == "profiles" else what
        lines.append(f"ref = ...  # {what}: {given['n_obs']} of them were used")
    return "\n".join([*lines, call_of(run)])


def call_of(run: Run, labels_key: str = "cell_type") -> str:
    """The call of the tool that made a run, with every parameter that differs from its default.

    Records keep no name of the column with the types of a reference; it is written as `labels_key`.
    """
    record, there = run.record, _inputs(run.record)
    if "tool" in record:
        return _lines(f"sd.tl.{record['tool']}(", [_object_name(run)], _of_tool(run))
    given = [_object_name(run)]
    if "ref" in there:
        given.append("ref")
    words = {"method": str(record["method"])}
    if "ref" in there and there["ref"]["kind"] != "profiles" and not run.task.asks_genes:
        words["labels_key"] = labels_key
    if kind_of(run.data) == "SpatialData" and kind_of(run.data) in run.task.data and len(run.data.tables) > 1:
        words["table_key"] = run.place
    words |= _reading(there) | _asked(run)
    if _had_no_recipe(run):
        words["recipe"] = None
    if record["preset"]:
        words["preset"] = str(record["preset"])
    words |= _typed(run)
    if EVALUATION in record.get("notes", {}):
        words["evaluate"] = True
    words["random_state"] = _plain(record["random_state"])
    if run.called != record["method"]:
        words["key_added"] = run.called
    return _lines(f"sd.tl.{run.task.name}(", given, words)


def _of_tool(run: Run) -> dict[str, Any]:
    """Arguments of a tool that makes a result from others."""
    given = {name: _plain(value) for name, value in run.record["params"].items()}
    seed = {"random_state": _plain(run.record["random_state"])} if run.record["random_state"] else {}
    return given | seed | {"key_added": run.key}


def _lines(start: str, given: list[str], words: Mapping[str, Any]) -> str:
    """A call in one line, or in one for each argument."""
    given = [*given, *(f"{name}={_written(value)}" for name, value in words.items())]
    one = f"{start}{', '.join(given)})"
    return one if len(one) <= LINE_LENGTH else "\n".join([start, *(f"    {each}," for each in given), ")"])


def _object_name(run: Run) -> str:
    kind = kind_of(run.data)
    name = NAMES[kind]
    if not run.place or (kind != "AnnData" and kind in run.task.data):
        return name
    return f"{name}[{_written(run.place)}]" if kind == "MuData" else f"{name}.tables[{_written(run.place)}]"


def _reading(there: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arguments that say what was read, from the names of the matrices in the record."""
    words: dict[str, Any] = {}
    for role, given in there.items():
        if "batch_key" in given:
            words["batch_key"] = str(given["batch_key"])
        where = str(given["layer"])
        quoted = re.search(r"(layers\[|obsm\[|obsp of )(['\"])(.*)\2", where)
        if quoted is None or (quoted[1], quoted[3]) == ("layers[", "counts"):  # what is read by itself
            continue
        word = {"obsm[": "use_rep", "obsp of ": "neighbors_key"}.get(quoted[1], "layer")
        if "modality" in given:
            words.setdefault(word, {})[str(given["modality"])] = quoted[3]
        else:
            words["ref_layer" if role == "ref" else word] = quoted[3]
    modalities = {role: str(given["modality"]) for role, given in there.items() if "modality" in given}
    return modalities | words


def _asked(run: Run) -> dict[str, Any]:
    """Arguments that say which perturbations or genes were asked for."""
    features = run.record.get("features", {})
    if features.get("named") and "ref" in _inputs(run.record):
        return {"genes": list(map(str, features["names"]))}
    profiles = _result(run, "profiles")
    if profiles is None:
        return {}
    given = run.record["input"]
    words = {name: str(given[name]) for name in ("perturbation_key", "control", "split_key") if name in given}
    return words | {"targets": list(map(str, run.record.get("categories", profiles.columns)))}


def _had_no_recipe(run: Run) -> bool:
    """Whether the values were taken as they are by a method that has a recipe."""
    from ._core.knobs import build
    from ._core.method import Recipe

    read = [given["recipe"] for given in _inputs(run.record).values() if given["kind"] != "given"]
    cls = _class(run)
    if cls is None or not read or any(recipe != repr(Recipe()) for recipe in read):
        return False
    return repr(build(cls, _params(run)).recipe) != repr(Recipe())


def _typed(run: Run) -> dict[str, Any]:
    """Parameters that differ from the method's defaults, or from those of the preset."""
    cls, usual = _class(run), _defaults(run)
    if cls is not None:
        usual |= cls.presets.get(str(run.record["preset"]), {})
    chosen = set(run.record.get("notes", {}).get(EVALUATION, {}).get("chosen", {}))
    chosen |= {"steps"} if "epochs" in chosen else set()  # the epochs took their place
    params = {name: value for name, value in _params(run).items() if name not in chosen}
    return {name: value for name, value in params.items() if name not in usual or value != usual[name]}


def _defaults(run: Run) -> dict[str, Any]:
    """Parameters of the method by name; none of one that is not in scdance."""
    from ._core.knobs import knobs

    cls = _class(run)
    return {name: knob.default for name, knob in knobs(cls).items()} if cls else {}


def _params(run: Run) -> dict[str, Any]:
    """Parameters of the run in the order of the method, which files do not keep; records leave None out."""
    from . import __version__

    given = {name: _plain(value) for name, value in run.record["params"].items()}
    is_ours = run.record["version"] == __version__  # another version may not have had all of them
    known = [name for name in _defaults(run) if name in given or (is_ours and name not in RUN_KNOBS)]
    return {name: given.get(name) for name in known} | given


def _written(value: Any) -> str:
    """A value as Python source, texts in double quotes."""
    value = _plain(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(name)}: {_written(each)}" for name, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
