"""Results folders as Tune leaves them, made up: quick to write, and known to the last digit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"
FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"

BASELINE = {"env": SLOW}
TRANSFER = {"env": FAST, "evaluation_config": {"env": SLOW}}
OFFSET = {"env": FAST, "slow_env": SLOW, "replay_fraction": 1.0, "num_replay_workers": 2}
SERIAL = OFFSET | {"num_replay_workers": 0}


def write_trial(
    folder: Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    final: float = -4.0,
    iterations: int = 20,
    gap: float = 0.5,
) -> Path:
    """Write one trial whose return rises evenly to ``final``, evaluated every tenth iteration."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({**config, "seed": seed}))
    lines, evaluation = [], None
    for iteration in range(1, iterations + 1):
        steps = 1000.0 * iteration
        if iteration % 10 == 0:
            truth = final - 80.0 * (1 - iteration / iterations)
            runners = {"episode_return_mean": truth, "weights_seq_no": float(iteration)}
            evaluation = {"env_runners": runners, "normalised_score": 1 + truth / 88}
            if config.get("slow_env"):
                evaluation["corrected_episode_return_mean"] = truth + gap
        row: dict[str, Any] = {
            "training_iteration": iteration,
            "num_env_steps_sampled_lifetime": steps,
            "time_total_s": 0.5 * iteration,
            "time_this_iter_s": 0.5,
        }
        if config.get("slow_env"):
            row["slow"] = {"num_env_steps_lifetime": steps, "sim_time_s_lifetime": steps * 1e-4}
            row["offset"] = {"holdout_mae": 1.0 / iteration, "coverage": 0.9}
        if evaluation is not None:
            row["evaluation"] = evaluation
        lines.append(json.dumps(row))
        if iteration % 10 == 1 and evaluation is not None:  # RLlib repeats the old one, emptied
            evaluation = {"env_runners": {"episode_return_mean": float("nan")}}
    (folder / "result.json").write_text("\n".join(lines) + "\n")
    return folder


def write_paper(root: Path, *, seeds: int = 3) -> Path:
    """Write the four arms of section 4, near enough to what they do."""
    arms = (
        ("pointmass-baseline", BASELINE, -4.0),
        ("pointmass-transfer", TRANSFER, -110.0),
        ("pointmass-offset", OFFSET, -4.5),
        ("pointmass-offset-serial", SERIAL, -4.5),
    )
    for name, config, final in arms:
        for seed in range(seeds):
            write_trial(root / name / f"trial_{seed}", config, seed=seed, final=final - 0.1 * seed)
    return root
