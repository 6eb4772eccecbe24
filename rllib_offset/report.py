"""A results folder in, one page out: self-contained, with every figure and its numbers beside it.

Nothing is trained here, and Ray is not started: what the page shows of an agent was saved with its
checkpoint, or is rolled out from the checkpoint in this process.
"""

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.figures import figure_of
from rllib_offset.page_figure import PageFigure
from rllib_offset.report_answer import answer, arms_table, key_figures
from rllib_offset.report_claims import DEPARTURES, Timing, claims, roles_of
from rllib_offset.report_figures import beyond_figures, learning_figures, parallel_figures
from rllib_offset.report_times import times_table
from rllib_offset.report_views import view_figures
from rllib_offset.results import AGENT_VIEW_NAME, Arm, ResultsError, Trial, read_results

if TYPE_CHECKING:
    from rllib_offset.planner import Measurement
    from rllib_offset.rollouts import AgentView

__all__ = [
    "COMPARISONS_NAME",
    "PAPER_NAME",
    "TIMINGS_NAME",
    "Extras",
    "Section",
    "render_page",
    "write_figure",
    "write_report",
]

PAPER_NAME = "paper.json"  # what `rllib paper` was asked for
TIMINGS_NAME = "timings.json"
COMPARISONS_NAME = "comparisons.json"
PAGE_NAME = "report.html"

_DPI = 150
_PARALLEL = "What parallel replay saves"
_UNREADABLE = (ValueError, ImportError, AttributeError, KeyError, TypeError, RuntimeError, OSError)


@dataclass(frozen=True)
class Extras:
    """What ``rllib paper`` measures besides training; empty for other folders."""

    paper: Mapping[str, Any] = field(default_factory=dict)
    timings: Sequence[Timing] = ()
    measurement: "Measurement | None" = None
    comparisons: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, folder: Path) -> "Extras":
        """Read the files that are there."""
        from rllib_offset.planner import Measurement

        timings = _read_json(folder / TIMINGS_NAME) or {}
        measured = timings.get("measurements") or {}
        slowest = max(measured, key=float, default=None)
        return cls(
            paper=_read_json(folder / PAPER_NAME) or {},
            timings=[Timing(**run) for run in timings.get("runs", [])],
            measurement=None if slowest is None else Measurement(**measured[slowest]),
            comparisons=_read_json(folder / COMPARISONS_NAME) or [],
        )


@dataclass(frozen=True)
class Section:
    """A heading of the page with its figures, as pictures, and a table after them."""

    heading: str
    figures: Sequence[tuple[PageFigure, bytes]]
    table: Sequence[Mapping[str, str]] = ()

    @property
    def rows(self) -> Iterator[tuple[bool, list[tuple[PageFigure, str]]]]:
        """Neighbours of the same size, as base64: whether they are small, and which."""
        for is_small, group in groupby(self.figures, key=lambda pair: pair[0].is_small):
            yield is_small, [(f, base64.b64encode(image).decode()) for f, image in group]


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a results folder.

    Args:
        folder: Results of ``rllib train`` or ``rllib paper``.
        out: Where to write; by default ``folder / "report"``.

    Returns:
        The page.  Beside it lies ``figures/`` with each figure as PNG, SVG and CSV, and
        ``arms.csv``.

    Raises:
        ResultsError: If the folder holds no results, or damaged ones.
    """
    arms = _in_order(read_results(folder))
    extras = Extras.read(folder)
    out = out or folder / "report"
    (out / "figures").mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    sections = [
        Section(
            heading,
            [(figure, write_figure(figure, out / "figures")) for figure in figures],
            times_table(extras.timings) if heading == _PARALLEL else [],
        )
        for heading, figures in _figures(arms, extras, notes)
    ]
    table = arms_table(arms)
    _write_csv(out / "arms.csv", table)
    page = out / PAGE_NAME
    text = render_page(folder.resolve().name, arms, table, sections, extras, notes)
    page.write_text(text, encoding="utf-8")
    return page


def render_page(
    name: str,
    arms: Sequence[Arm],
    table: Sequence[Mapping[str, str]],
    sections: Sequence[Section],
    extras: Extras,
    notes: Sequence[str] = (),
) -> str:
    """Fill the template; whatever comes from results is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import rllib_offset

    environment = Environment(
        loader=PackageLoader("rllib_offset"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    is_paper = bool(extras.paper)
    judged = claims(arms, extras.timings, extras.comparisons)
    return environment.get_template("report.html").render(
        title="The paper, reproduced" if is_paper else f"Results of {name}",
        is_paper=is_paper,
        answer=answer(arms),
        key_figures=key_figures(arms, extras.timings, extras.comparisons),
        table=table,
        claims=judged if is_paper else [claim for claim in judged if claim.held is not None],
        sections=sections,
        departures=DEPARTURES if is_paper else (),
        command=extras.paper.get("command", "rllib report"),
        facts=_facts(arms, extras),
        notes=notes,
        version=rllib_offset.__version__,
    )


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path} is damaged: {error}; delete it and run again") from None


def _in_order(arms: Sequence[Arm]) -> list[Arm]:
    """Baseline, transfer, serial, parallel, and then the others."""
    roles = roles_of(arms)
    known = [roles.baseline, roles.transfer, roles.serial, roles.parallel]
    first = [arm for arm in known if arm is not None]
    return [*first, *(arm for arm in arms if arm not in first)]


def _facts(arms: Sequence[Arm], extras: Extras) -> list[tuple[str, str]]:
    first = arms[0].trials[0]
    facts = [
        ("iterations", f"{max(len(trial.rows) for arm in arms for trial in arm.trials)}"),
        ("environment steps", f"{first.env_steps[-1]:,.0f} per trial"),
    ]
    return facts + [(str(key), str(value)) for key, value in extras.paper.get("facts", {}).items()]


# What the page shows.


def _figures(
    arms: Sequence[Arm], extras: Extras, notes: list[str]
) -> Iterator[tuple[str, list[PageFigure]]]:
    """Headings and their figures, as far as there are any."""
    roles = roles_of(arms)
    numbered = {id(roles.baseline): 3, id(roles.transfer): 4, id(roles.offset): 5}
    numbered = numbered if roles.is_section_4 else {}
    first: list[PageFigure] = []
    others: list[PageFigure] = []
    truths: list[NDArray[Any]] = []  # of several agents of one pair, it is drawn once
    for arm in arms:
        if arm is roles.serial and roles.parallel is not None:
            continue  # the same agent twice
        view = _view_of(arm.trials[0], notes)
        if view is not None:
            number = numbered.get(id(arm), 0)
            is_new = not any(np.array_equal(view.true, true) for true in truths)
            truths.append(view.true)
            shown = view_figures(number, arm, view, shows_truth=is_new)
            (others if numbered and not number else first).extend(shown)
    has_paths = any("paths" in figure.name for figure in first)
    for heading, figures in (
        (f"{'Where the agents go, and what' if has_paths else 'What'} the predictor knows", first),
        ("How fast they learn, and for how many slow steps", learning_figures(arms)),
        (_PARALLEL, parallel_figures(arms, extras.timings, extras.measurement)),
        ("Beyond the paper", [*others, *beyond_figures(arms)]),
    ):
        drawn = list(figures)
        if drawn:
            yield heading, drawn


def _view_of(trial: Trial, notes: list[str]) -> "AgentView | None":
    from rllib_offset.rollouts import AgentView, view_of_checkpoint

    try:
        if trial.agent_view is not None:
            return AgentView.load(trial.agent_view)
        if trial.checkpoint is None:
            notes.append(f"{trial.folder.name} has no checkpoint: its agent is not shown.")
            return None
        view = view_of_checkpoint(trial.checkpoint)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        notes.append(f"The agent of {trial.folder.name} is not shown: {reason}")
        return None
    view.save(trial.folder / AGENT_VIEW_NAME)
    return view


def write_figure(figure: PageFigure, folder: Path) -> bytes:
    """Write a figure as PNG, SVG and CSV, all named after it; returns the PNG."""
    from matplotlib import rc_context

    png = io.BytesIO()
    drawing = figure_of(figure.axes)
    drawing.savefig(png, format="png", dpi=_DPI)
    (folder / f"{figure.name}.png").write_bytes(png.getvalue())
    with rc_context({"svg.hashsalt": figure.name}):  # the same numbers give the same file
        drawing.savefig(folder / f"{figure.name}.svg", metadata={"Date": None})
    _write_csv(folder / f"{figure.name}.csv", figure.rows)
    return png.getvalue()


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
