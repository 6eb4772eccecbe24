"""The figures of the op-amp's page, from the runs of `opamp.py`.

python benchmarks/opamp_figures.py --runs opamp_results --out docs/images
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import interval
from matplotlib.figure import Figure

from rllib_offset.envs.opamp.hand import hand_specs
from rllib_offset.envs.opamp.measurement import SPECS
from rllib_offset.envs.opamp.simulators import open_simulator
from rllib_offset.envs.opamp.task import OpAmpTask

OFFSET = "offset, rounds, 300 labels"
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
UNITS = {"gain": ("V/V", 1.0), "bandwidth": ("MHz", 1e-6)}
UNITS |= {"phase_margin": ("deg", 1.0), "current": ("uA", 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("opamp_results"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in sorted(options.runs.glob("*-[0-9]*.json"))]
    draw_specs(next(r for r in runs if r["arm"] == OFFSET), options.out / "opamp_specs.png")
    draw_success(runs, options.out / "opamp_success.png")
    draw_bode(next(r for r in runs if r["arm"] == OFFSET), options.out / "opamp_bode.png")


def designs_of(run: dict[str, Any]) -> np.ndarray:
    """Return the sizes of the proposed designs, ``(targets, 7)``."""
    task = OpAmpTask()
    return task.designs(task.move(np.array(run["states"]), np.array(run["actions"])))


def draw_specs(run: dict[str, Any], path: Path) -> None:
    """Specs of the proposed designs: fast, and fast + offset, over the extracted simulation."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    known = np.array([bool(specs) for specs in run["verified"]])
    fast = hand_specs(designs_of(run))[known]
    for i, (ax, name) in enumerate(zip(figure.subplots(2, 2).flat, SPECS, strict=True)):
        unit, scale = UNITS[name]
        true = scale * np.array([specs[name] for specs in run["verified"] if specs])
        promised = np.array([specs[name] for specs in run["promised"]])[known]
        ax.axline((true.mean(), true.mean()), slope=1, color="0.6", linewidth=0.8)
        ax.plot(true, scale * fast[:, i], "o", ms=4, color=ORANGE, label="hand equations")
        ax.plot(true, scale * promised, "o", ms=4, color=BLUE, label="hand + offset")
        ax.set(title=name.replace("_", " "), xlabel=f"extracted [{unit}]", ylabel=f"said [{unit}]")
    ax.legend()
    figure.savefig(path, dpi=120)


def draw_success(runs: list[dict[str, Any]], path: Path) -> None:
    """Share of targets verified by one slow run, over the slow runs of training."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    colours = {"transfer": "0.4", OFFSET: BLUE, "offset, rounds, 150 labels": GREEN}
    for arm in dict.fromkeys(run["arm"] for run in runs):
        found = [run for run in runs if run["arm"] == arm]
        shares = [100 * run["num_first"] / run["num_proposals"] for run in found]
        labels = [run["labels"] for run in found]
        colour = colours.get(arm, ORANGE)
        ax.plot(labels, shares, "o", color=colour, alpha=0.5)
        center, half = interval(shares)
        ax.errorbar(np.mean(labels), center, half, fmt="s", color=colour, capsize=4, label=arm)
    ax.set(xlabel="slow runs in training", ylabel="targets verified by one slow run [%]")
    ax.set(ylim=(0, 100), xlim=(-15, 320))
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def draw_bode(run: dict[str, Any], path: Path) -> None:
    """Frequency response of one proposed design in three fidelities."""
    design = designs_of(run)[0]
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    styles = {"hand": (ORANGE, ":"), "schematic": (GREEN, "--"), "extracted": (BLUE, "-")}
    for fidelity, (colour, line) in styles.items():
        result = open_simulator(fidelity).response(design)
        phase = np.degrees(np.unwrap(np.angle(result.response)))
        phase -= 180 * round(phase[0] / 180)
        decibel = 20 * np.log10(np.abs(result.response))
        above.semilogx(result.frequency_hz, decibel, line, color=colour, label=fidelity)
        below.semilogx(result.frequency_hz, phase, line, color=colour)
    above.axhline(0, color="0.7", linewidth=0.8)
    above.set(ylabel="gain [dB]", ylim=(-60, 60), title=f"sizes {design.tolist()}")
    below.set(ylabel="phase [deg]", xlabel="frequency [Hz]", xlim=(1e3, 1e10))
    above.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
