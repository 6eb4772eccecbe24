"""What a good policy costs in slow steps: method x pair, over seeds.

    python benchmarks/economy.py --seeds 5 --out economy_results

Writes economy.md, economy.csv and economy.png into the folder; runs that are there already are not
repeated.  "to 95 %": median slow steps until 95 % of the baseline's final score; the ratios are to
the slow-only arms of the same pair.  "seeds that warned": how many runs reported that the predictor
may be exploited, and in which iteration first.
"""

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from harness import Arm, Run, interval, markdown, run_all, table

IDS = "rllib_offset.envs:rllib_offset/{}-v0"
SLOW, DRIFT = IDS.format("PointMass"), IDS.format("DriftPointMass")
MOVING, MOVES_AT = "pairs.MovingPointMass", 151
PENDULUM = IDS.format("DampedPendulum")
OFTEN = {"evaluation_interval": 5}
SELDOM = {"evaluation_interval": 50}  # where only the end is compared
EVERY_TIME = {"evaluation_interval": 1}
FIRST_BATCH = {"replay_fraction": 0.0, "offset_clip_rewards": False}
# slow-only PPO with small batches: the best slow-only method that tuning found
TUNED_PPO = {
    "run": "PPO",
    "env": SLOW,
    "train_batch_size_per_learner": 200,
    "minibatch_size": 50,
    "num_envs_per_env_runner": 2,
    "lr": [[0, 1e-3], [12_000, 1e-4]],
    **EVERY_TIME,
}

POINT_MASS = [
    Arm("A2C, slow only", "pointmass-baseline", OFTEN, is_slow_only=True),
    Arm("PPO, slow only, tuned", "pointmass-offset-ppo", TUNED_PPO, is_slow_only=True),
    Arm("A2C, 10 % of trajectories", "pointmass-offset-serial", {"replay_fraction": 0.1, **OFTEN}),
    Arm("A2C, single steps", "pointmass-offset-samples", OFTEN),
    Arm("PPO, single steps", "pointmass-offset-ppo-samples", EVERY_TIME),
    Arm("A2C, first batch labelled, then none", "pointmass-offset-serial", FIRST_BATCH, 100),
    Arm(
        "A2C, first batch labelled, then none, one net",
        "pointmass-offset-serial",
        {"offset_ensemble_size": 1, **FIRST_BATCH},
        100,
    ),
    Arm(
        "A2C, 500 spread labels, then none",
        "pointmass-offset-samples",
        {"initial_labels": 500, "labels_per_iteration": 0},
        100,
    ),
    Arm(
        "A2C, target moves at 150, frozen and probed",
        "pointmass-offset-samples",
        {"slow_env": MOVING, "freeze_below": 0.04, "initial_labels": 100},
        move_target_at=MOVES_AT,
    ),
]
MORE_POINT_MASS = [
    Arm("A2C, every trajectory", "pointmass-offset-serial", OFTEN),
    Arm(
        "A2C, single steps, uncertain",
        "pointmass-offset-samples",
        {"label_choice": "uncertain", **OFTEN},
    ),
    Arm(
        "PPO, 10 % of trajectories", "pointmass-offset-ppo", {"replay_fraction": 0.1, **EVERY_TIME}
    ),
    Arm(
        "A2C, target moves at 150, fixed trickle",
        "pointmass-offset-samples",
        {"slow_env": MOVING, "labels_per_iteration": 2, **OFTEN},
        move_target_at=MOVES_AT,
    ),
]
DYNAMICS = [
    Arm("drift: A2C, slow only", "pointmass-baseline", {"env": DRIFT, **OFTEN}, is_slow_only=True),
    Arm(
        "drift: A2C, paper's form, every trajectory",
        "pointmass-offset-serial",
        {"slow_env": DRIFT, "offset_dynamics": "same", **SELDOM},
    ),
    Arm("drift: A2C, one-step residual", "pointmass-drift-residual", OFTEN),
]
RUGGED = [
    Arm("rugged: A2C, fast + offset", "pointmass-rugged", SELDOM),
    Arm(
        "rugged: A2C, pure surrogate",
        "pointmass-rugged",
        {"env": "pairs.BlindPointMass", **SELDOM},
    ),
]
PENDULUMS = [
    Arm(
        "pendulum: PPO, slow only",
        "pendulum-residual",
        {"run": "PPO", "env": PENDULUM, **SELDOM},
        is_slow_only=True,
    ),
    Arm("pendulum: PPO, one-step residual", "pendulum-residual", SELDOM),
]
STYLES = {  # of the figure
    "PPO, single steps": ("#D55E00", "-"),
    "A2C, single steps": ("#E69F00", "--"),
    "A2C, 10 % of trajectories": ("#009E73", "-."),
    "PPO, slow only, tuned": ("#0072B2", "-"),
    "A2C, slow only": ("0.4", ":"),
}
ARMS = [*POINT_MASS, *DYNAMICS, *RUGGED, *PENDULUMS]


def baseline_of(name: str, runs: dict[str, list[Run]]) -> list[Run]:
    """Return the slow-only A2C (Pendulum: PPO) runs of the same pair."""
    pair = name.split(": ")[0] + ": " if ": " in name else ""
    names = [other for other in runs if other.startswith(f"{pair}A2C, slow only")]
    names += [other for other in runs if pair and other.startswith(f"{pair}PPO, slow only")]
    return runs[names[0]] if names else runs["A2C, slow only"]


def threshold(runs: list[Run]) -> float:
    """95 % of the final score, where there is a score."""
    return 0.95 * float(np.mean([run.scores[-1] for run in runs]))


def to_95(runs: list[Run], goal: float) -> float:
    """Median over seeds of the slow steps to the goal; NaN if half of them never got there."""
    return float(np.median([run.slow_steps_to(goal) for run in runs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("economy_results"))
    parser.add_argument("--more", action="store_true", help="further arms on PointMass")
    parser.add_argument("--only", help="train the arms named so (* stands for any text)")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side")
    options = parser.parse_args()
    arms = [*ARMS, *(MORE_POINT_MASS if options.more or options.only else [])]
    if options.only:
        arms = [arm for arm in arms if fnmatchcase(arm.name, options.only)]
    runs = run_all(arms, range(options.seeds), options.out, at_once=options.at_once)
    if options.only:
        return
    rows = table(runs, columns_of(runs))
    moved = [run for arm in arms if arm.move_target_at for run in runs[arm.name]]
    tables = [markdown(rows), markdown(recoveries(moved))]
    (options.out / "economy.md").write_text("\n\n".join(tables) + "\n")
    with open(options.out / "economy.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    (options.out / "runs.json").write_text(
        json.dumps([asdict(run) for arm_runs in runs.values() for run in arm_runs])
    )
    draw(runs, options.out / "economy.png")
    print("\n\n".join(tables))


def columns_of(runs: dict[str, list[Run]]) -> dict[str, Callable[[list[Run]], str]]:
    """Return what the table says of each arm."""
    goals = {name: threshold(baseline_of(name, runs)) for name in runs}
    costs = {name: to_95(arm_runs, goals[name]) for name, arm_runs in runs.items()}

    def ratio(name: str, others: list[Run]) -> str:
        factor = to_95(others, goals[name]) / costs[name]
        return f"{factor:,.0f}" if np.isfinite(factor) else "-"

    def warned(arm_runs: list[Run]) -> str:
        first = [int(np.argmax(run.warned)) + 1 for run in arm_runs if any(run.warned)]
        return f"{len(first)} (from {min(first)} to {max(first)})" if first else "0"

    tuned = runs["PPO, slow only, tuned"]
    return {
        "final": lambda r: "{:.3f} ± {:.3f}".format(*interval([run.final for run in r])),
        "lowest": lambda r: f"{min(run.final for run in r):.3f}",
        "slow steps": lambda r: f"{np.mean([run.slow_steps[-1] for run in r]):,.0f}",
        "to 95 %": lambda r: f"{costs[r[0].arm]:,.0f}",
        "x slow-only A2C": lambda r: ratio(r[0].arm, baseline_of(r[0].arm, runs)),
        "x tuned slow-only PPO": lambda r: ratio(r[0].arm, tuned) if ": " not in r[0].arm else "-",
        "seeds that warned": warned,
        "wall clock [s]": lambda r: f"{np.mean([run.wall_s for run in r]):.0f}",
        "CPU [s]": lambda r: f"{np.mean([run.cpu_s for run in r]):.0f}",
    }


def recoveries(runs: list[Run]) -> list[list[str]]:
    """Return a row per run whose target moved: how soon it was back, and what that took."""
    rows = [["target moved, seed", "before", "back at 0.95 after", "slow steps then", "final"]]
    for run in runs:
        after = np.asarray(run.iterations) >= MOVES_AT
        scores, steps = np.asarray(run.scores), np.asarray(run.slow_steps)
        back = np.flatnonzero(after & (scores >= 0.95))
        first = int(back[0]) if back.size else -1
        rows.append(
            [
                f"{run.seed}",
                f"{scores[~after][-1]:.3f}",
                f"{run.iterations[first] - MOVES_AT + 1} iterations" if back.size else "never",
                f"{steps[first]:,.0f}",
                f"{scores[-1]:.3f}",
            ]
        )
    return rows


def draw(runs: dict[str, list[Run]], path: Path) -> None:
    """Score over slow steps: mean of the seeds and its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    ax = figure.subplots()
    for name, (color, line) in STYLES.items():
        steps = np.mean([run.slow_steps for run in runs[name]], axis=0)
        columns = zip(*(run.scores for run in runs[name]), strict=True)
        mean, half = np.array([interval(list(column)) for column in columns]).T
        ax.plot(steps, mean, line, color=color, label=name)
        ax.fill_between(steps, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    ax.axhline(1, color="0.7", linewidth=0.8)
    ax.set(
        xscale="log",
        xlabel="slow steps bought",
        ylabel="score in the slow simulator\n(0 random, 1 optimal)",
        ylim=(0, 1.05),
    )
    ax.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
