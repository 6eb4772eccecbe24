"""A results folder in, one page out: self-contained, with every figure and its numbers beside it.

Nothing is trained here, and Ray is not started: what the page shows of an agent was saved with its
checkpoint, or is rolled out from the checkpoint in this process.
"""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rllib_offset.figures import figure_of
from rllib_offset.page_figure import PageFigure
from rllib_offset.report_claims import (
    DEPARTURES,
    Timing,
    claims,
    roles_of,
    with_interval,
)
from rllib_offset.report_figures import beyond_figures, learning_figures, parallel_figures
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
    "render_page",
    "write_figure",
    "write_report",
]

PAPER_NAME = "paper.json"  # what `rllib paper` was asked for
TIMINGS_NAME = "timings.json"
COMPARISONS_NAME = "comparisons.json"
PAGE_NAME = "report.html"

_DPI = 150
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
        measured = timings.get("measurement")
        return cls(
            paper=_read_json(folder / PAPER_NAME) or {},
            timings=[Timing(**run) for run in timings.get("runs", [])],
            measurement=Measurement(**measured) if measured else None,
            comparisons=_read_json(folder / COMPARISONS_NAME) or [],
        )


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
        (heading, [(figure, write_figure(figure, out / "figures")) for figure in shown])
        for heading, shown in _sections(arms, extras, notes)
    ]
    table = _table(arms)
    _write_csv(out / "arms.csv", table)
    page = out / PAGE_NAME
    text = render_page(folder.resolve().name, arms, table, sections, extras, notes)
    page.write_text(text, encoding="utf-8")
    return page


def render_page(
    name: str,
    arms: Sequence[Arm],
    table: Sequence[Mapping[str, str]],
    sections: Sequence[tuple[str, Sequence[tuple[PageFigure, bytes]]]],
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
    encoded = [
        (heading, [(figure, base64.b64encode(image).decode()) for figure, image in shown])
        for heading, shown in sections
    ]
    return environment.get_template("report.html").render(
        title="The paper, reproduced" if is_paper else f"Results of {name}",
        is_paper=is_paper,
        answer=_answer(arms),
        columns=list(table[0]) if table else [],
        table=table,
        claims=judged if is_paper else [claim for claim in judged if claim.held is not None],
        sections=encoded,
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


# What the page says.


def _answer(arms: Sequence[Arm]) -> str:
    """One paragraph: how good the proposal is, and what it cost."""
    roles = roles_of(arms)
    offset = roles.offset
    if offset is None or not len(offset.finals()):
        evaluated = [arm for arm in arms if len(arm.finals())]
        if not evaluated:
            return "None of these trials was evaluated: set evaluation_interval to see a return."
        best = max(evaluated, key=lambda arm: float(arm.finals().mean()))
        return f"{best.name} ends with a return of {with_interval(best.finals())} in evaluation."
    steps = np.mean([trial.slow_steps[-1] for trial in offset.trials])
    text = (
        f"Trained on fast + offset, the agent ends with a return of "
        f"{with_interval(offset.finals())} in the slow simulator, for {steps:,.0f} slow steps"
    )
    others = [("the baseline", roles.baseline), ("transfer", roles.transfer)]
    parts = [
        f"{name} ends at {with_interval(arm.finals())}"
        for name, arm in others
        if arm is not None and len(arm.finals())
    ]
    text += f"; {' and '.join(parts)}." if parts else "."
    frugal = _most_frugal(arms)
    if frugal is not None and frugal is not offset:
        cost = np.mean([trial.slow_steps[-1] for trial in frugal.trials])
        text += (
            f" Buying single steps ({frugal.name}), {cost:,.0f} slow steps are enough for "
            f"{with_interval(frugal.finals())}."
        )
    return text


def _most_frugal(arms: Sequence[Arm]) -> Arm | None:
    pairs = [arm for arm in arms if arm.has_pair and len(arm.finals())]
    if len(pairs) < 2:
        return None
    return min(pairs, key=lambda arm: float(np.mean([t.slow_steps[-1] for t in arm.trials])))


def _table(arms: Sequence[Arm]) -> list[dict[str, str]]:
    step_s = _slow_step_s(arms)
    rows = []
    for arm in arms:
        steps = np.array([trial.slow_steps[-1] for trial in arm.trials])
        times = np.array([trial.slow_time_s for trial in arm.trials])
        estimated = not np.isfinite(times).any() and np.isfinite(step_s)
        times = steps * step_s if estimated else times
        slow_s = with_interval(times[np.isfinite(times)], 1)
        wall = np.array([trial.wall_clock_s for trial in arm.trials])
        rows.append(
            {
                "arm": arm.name,
                "trained on": arm.label,
                "return in the slow simulator": with_interval(arm.finals()),
                "score (0 random, 1 best)": with_interval(arm.finals("score"), 4),
                "slow steps": f"{steps.mean():,.0f}" if np.isfinite(steps).all() else "-",
                "slow seconds": f"about {slow_s}" if estimated else slow_s,
                "wall-clock (s)": with_interval(wall[np.isfinite(wall)], 0),
                "seeds": str(len(arm.trials)),
            }
        )
    return rows


def _slow_step_s(arms: Sequence[Arm]) -> float:
    """Seconds of a slow step, over all arms whose ledger knows."""
    trials = [trial for arm in arms if arm.has_pair for trial in arm.trials]
    steps = sum(trial.slow_steps[-1] for trial in trials)
    return sum(trial.slow_time_s for trial in trials) / steps if steps else float("nan")


def _facts(arms: Sequence[Arm], extras: Extras) -> list[tuple[str, str]]:
    first = arms[0].trials[0]
    facts = [
        ("iterations", f"{max(len(trial.rows) for arm in arms for trial in arm.trials)}"),
        ("environment steps", f"{first.env_steps[-1]:,.0f} per trial"),
    ]
    return facts + [(str(key), str(value)) for key, value in extras.paper.get("facts", {}).items()]


# What the page shows.


def _sections(
    arms: Sequence[Arm], extras: Extras, notes: list[str]
) -> list[tuple[str, list[PageFigure]]]:
    """Headings and their figures."""
    roles = roles_of(arms)
    numbered = {id(roles.baseline): 3, id(roles.transfer): 4, id(roles.offset): 5}
    first: list[PageFigure] = []
    rest: list[PageFigure] = []
    for arm in arms:
        if arm is roles.serial and roles.parallel is not None:
            continue  # the same agent twice
        view = _view_of(arm.trials[0], notes)
        if view is not None:
            number = numbered.get(id(arm), 0)
            (first if number else rest).extend(view_figures(number, arm, view))
    first += [*learning_figures(arms), *parallel_figures(arms, extras.timings)]
    rest += beyond_figures(arms, extras.timings, extras.measurement)
    return [(h, f) for h, f in (("The paper's figures", first), ("Beyond the paper", rest)) if f]


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
