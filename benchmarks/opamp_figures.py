"""Figures of the op-amp: what the benchmark's runs say, as PNG files."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from harness import interval
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rllib_offset.envs.opamp.drawing import draw_bode, draw_target
from rllib_offset.envs.opamp.measurement import SPECS
from rllib_offset.envs.opamp.simulators import open_simulator

__all__ = ["draw_all"]

Run = dict[str, Any]
Runs = dict[str, list[Run]]

SHOWN = "offset, rounds, 300 labels"  # the arm whose designs are drawn
UNITS = {"gain": 1.0, "bandwidth": 1e6, "phase_margin": 1.0, "current": 1e-6}
LABELS = {
    "gain": "gain (V/V)",
    "bandwidth": "bandwidth (MHz)",
    "phase_margin": "phase margin (deg)",
    "current": "current (µA)",
}
FIDELITIES = {"hand": "tab:red", "schematic": "tab:orange", "hand + offset": "tab:blue"}
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "savefig.dpi": 120}


def draw_all(runs: Runs, folder: Path) -> None:
    """Draw what the runs allow into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figures = {"opamp-success": draw_success(runs)}
        if SHOWN in runs:
            figures["opamp-specs"] = draw_specs(runs[SHOWN][0])
            figures["opamp-bode"] = draw_three_bodes(runs[SHOWN][0])
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")


def draw_success(runs: Runs) -> Figure:
    """Draw the share of targets verified over the labels, and requests over all slow runs."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    share, requests = figure.subplots(1, 2)
    for index, (name, found) in enumerate(runs.items()):
        labels = float(np.mean([run["labels"] for run in found]))
        shares = [100 * run["num_first"] / run["num_proposals"] for run in found]
        mean, half = interval(shares)
        style: dict[str, Any] = {"color": f"C{index}"}
        share.errorbar(labels, mean, yerr=np.nan_to_num(half), fmt="o", capsize=4, **style)
        share.plot([labels] * len(shares), shares, "_", markersize=10, **style)
        if any(any(run["solved"]) for run in found):
            steps = np.stack([run["labels"] + np.cumsum(run["spent"]) for run in found])
            solved = np.stack([np.cumsum(run["solved"]) for run in found])
            requests.plot(steps.mean(axis=0), solved.mean(axis=0), label=name, **style)
        else:
            requests.plot([], [], label=f"{name} (none)", **style)
    share.set(xlabel="slow runs in training", ylabel="targets verified by one slow run (%)")
    share.set(ylim=(-3, 103), xlim=(-20, 330))
    requests.set(xlabel="slow runs in all, training included", ylabel="targets solved")
    requests.legend(fontsize=7, loc="best")
    return figure


def draw_specs(run: Run) -> Figure:
    """Draw the specs of the proposed designs: each fidelity against the extracted simulation."""
    designs = [np.array(design) for design in run["designs"]]
    known = [index for index, specs in enumerate(run["verified"]) if specs]
    said = {
        "hand": [_specs("hand", designs[index]) for index in known],
        "schematic": [_specs("schematic", designs[index]) for index in known],
        "hand + offset": [_by_name(run["promised"][index]) for index in known],
    }
    true = np.stack([_by_name(run["verified"][index]) for index in known])
    figure = Figure(figsize=(9.0, 2.7), layout="constrained")
    for column, (axes, name) in enumerate(zip(figure.subplots(1, 4), SPECS, strict=True)):
        x, unit = true[:, column], UNITS[name]
        for fidelity, color in FIDELITIES.items():
            y = np.stack(said[fidelity])[:, column]
            axes.plot(x / unit, y / unit, ".", markersize=4, color=color, label=fidelity, alpha=0.7)
        ends = np.array([x.min(), x.max()]) / unit
        axes.plot(ends, ends, "k-", linewidth=0.8)
        axes.set(title=LABELS[name], xlabel="extracted")
    figure.axes[0].set_ylabel("estimated")
    figure.axes[0].legend(fontsize=7)
    return figure


def draw_three_bodes(run: Run) -> Figure:
    """Draw the Bode plot of the first verified design in three fidelities, and its target."""
    index = run["passes"].index(True)
    design, target = np.array(run["designs"][index]), np.array(run["targets"][index])
    figure = Figure(figsize=(5.5, 4.6), layout="constrained")
    magnitude, phase = figure.subplots(2, 1, sharex=True)
    for fidelity, color in (("hand", "tab:red"), ("schematic", "tab:orange"), ("extracted", "k")):
        response = open_simulator(fidelity).response(design)
        draw_bode(magnitude, phase, response, label=fidelity, color=color, linewidth=1.2)
    draw_target(magnitude, phase, target)
    magnitude.set_xlim(1e3, 2e10)
    magnitude.legend(fontsize=8)
    return figure


def _specs(fidelity: Any, design: NDArray[np.int64]) -> NDArray[np.float64]:
    return open_simulator(fidelity).evaluate(design).specs


def _by_name(specs: dict[str, float]) -> NDArray[np.float64]:
    return np.array([specs[name] for name in SPECS])
