"""The paper's arms on PointMass: final normalised score over seeds.

python benchmarks/core.py --seeds 5 --out core_results
"""

import argparse
from pathlib import Path

import numpy as np
from harness import Arm, Run, interval, markdown, run_all, table

# Ray lends a run one CPU, and its replay workers are to run beside it
IN_ACTORS = {"num_replay_workers": 2, "num_cpus_per_replay_worker": 0}

ARMS = [
    Arm("baseline", "pointmass-baseline", is_slow_only=True),
    Arm("transfer", "pointmass-transfer"),
    Arm("offset", "pointmass-offset-serial"),
    Arm("offset-parallel", "pointmass-offset", IN_ACTORS),
    Arm("literal", "pointmass-offset-literal"),
    Arm("offset-ppo", "pointmass-offset-ppo"),
    Arm("sparse", "pointmass-offset-sparse"),
    Arm("pseudo-sparse", "pointmass-offset-pseudo-sparse"),
    Arm("noise", "pointmass-offset-noise"),
]

COLUMNS = {
    "score in slow": lambda runs: "{:.3f} ± {:.3f}".format(*interval([r.final for r in runs])),
    "lowest": lambda runs: f"{min(r.final for r in runs):.3f}",
    "slow steps": lambda runs: f"{interval([r.slow_steps[-1] for r in runs])[0]:,.0f}",
    "wall clock [s]": lambda runs: f"{interval([r.wall_s for r in runs])[0]:.0f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("core_results"))
    options = parser.parse_args()
    runs = run_all(ARMS, range(options.seeds), options.out)
    text = markdown(table(runs, COLUMNS))
    (options.out / "core.md").write_text(text + "\n")
    draw(runs, options.out / "learning_curves.png")
    print(text)


def draw(runs: dict[str, list[Run]], path: Path) -> None:
    """Draw the three learning curves of the paper's figure 7, mean and 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.subplots()
    styles = {"baseline": ("#0072B2", "-"), "offset": ("#D55E00", "--"), "transfer": ("0.4", ":")}
    labels = {
        "baseline": "baseline: trained on slow",
        "offset": "offset: trained on fast + offset",
        "transfer": "transfer: trained on fast",
    }
    for name, (color, line) in styles.items():
        steps = np.asarray(runs[name][0].env_steps) / 1000
        columns = zip(*(run.scores for run in runs[name]), strict=True)
        mean, half = np.array([interval(list(column)) for column in columns]).T
        ax.plot(steps, mean, line, color=color, label=labels[name])
        ax.fill_between(steps, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    ax.axhline(1, color="0.7", linewidth=0.8)
    ax.set(
        xlabel="environment steps [thousands]",
        ylabel="score in the slow simulator\n(0 random, 1 optimal)",
        ylim=(-1.2, 1.1),
    )
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
