"""The op-amp: unseen targets verified in the extracted simulation, per way to train.

    python benchmarks/opamp.py --seeds 3 --targets 100 --out opamp_results

Writes opamp.md and a file per run into the folder; a run that is there already is not repeated, and
one whose checkpoint is there is only judged.  Every arm is judged on the same fresh targets: one
slow step verifies the design that the greedy policy ends in, and up to `--retries` more follow
where it fails.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml
from harness import TUNED_CONFIGS, Arm, interval, markdown

import rllib_offset
from rllib_offset.config_keys import translate_keys
from rllib_offset.proposals import propose, summarise

STORE = "designs.sqlite"
FIRST_TARGET = 900_000  # seeds that neither training nor its evaluation draws from

OFFSET = "opamp-offset-ppo"
FEWER = {"initial_labels": 50, "max_slow_steps": 150}
RANDOM = {"label_rounds": None, "label_choice": "uniform", "labels_per_iteration": 0}
ARMS = [
    Arm("transfer", "opamp-transfer"),
    Arm("offset, rounds, 300 labels", OFFSET),
    Arm(
        "offset, rounds, 150 labels",
        OFFSET,
        {**FEWER, "label_rounds": {"labels": 25, "interval": 8, "tolerance": 0.02}},
    ),
    Arm("offset, random, 300 labels", OFFSET, {**RANDOM, "initial_labels": 300}),
]

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--only", action="append", help="arms to train, by name; default all")
    parser.add_argument("--out", type=Path, default=Path("opamp_results"))
    options = parser.parse_args()
    options.out = options.out.resolve()  # Ray changes the folder of its workers
    options.out.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in ARMS if options.only is None or arm.name in options.only]
    rllib_offset.register()
    for arm, seed in product(arms, range(options.seeds)):
        path = options.out / f"{arm.name}-{seed}.json"
        if not path.exists():
            run = run_arm(arm, seed, options)
            path.write_text(json.dumps(run))
            print(f"{arm.name} seed {seed}: {describe(run)}", flush=True)
    ray.shutdown()
    runs = {arm.name: runs_of(arm.name, options.out) for arm in ARMS}
    rows = table({name: found for name, found in runs.items() if found})
    (options.out / "opamp.md").write_text(markdown(rows) + "\n")
    print(markdown(rows))


def run_arm(arm: Arm, seed: int, options: argparse.Namespace) -> Run:
    """Train an arm with one seed, then let it propose a design for every target."""
    checkpoint = options.out / "checkpoints" / f"{arm.name}-{seed}"
    trained = checkpoint / "trained.json"
    if not trained.exists():
        trained.write_text(json.dumps(train(arm, seed, checkpoint, options.out / STORE)))
    seeds = range(FIRST_TARGET, FIRST_TARGET + options.targets)
    proposals = propose(checkpoint, seeds=seeds, retries=options.retries)
    firsts = [proposal.attempts[0] for proposal in proposals]
    return {
        "arm": arm.name,
        "seed": seed,
        **json.loads(trained.read_text()),
        **asdict(summarise(proposals)),
        "states": [first.state.tolist() for first in firsts],
        "actions": [first.action.tolist() for first in firsts],
        "promised": [first.promised for first in firsts],
        "verified": [first.verified for first in firsts],
        "promised_passes": [first.promised_passes for first in firsts],
        "passes": [first.passes for first in firsts],
    }


def train(arm: Arm, seed: int, checkpoint: Path, store: Path) -> dict[str, Any]:
    """Train as the tuned config says, without evaluation; return what it cost."""
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    spec = next(iter(yaml.safe_load((TUNED_CONFIGS / f"{arm.tuned}.yaml").read_text()).values()))
    config = {**spec["config"], "env": spec["env"], "seed": seed, **arm.overrides}
    config |= {
        "evaluation_interval": None,
        "num_replay_workers": 0,
        "slow_env": "opamp_store.StoredOpAmp",
        "slow_env_config": {**config["slow_env_config"], "store": str(store)},
    }
    if not ray.is_initialized():  # not at all where every run is only judged
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = ray.tune.registry.get_trainable_cls(spec["run"])(config=translate_keys(config))
    for _ in range(arm.iterations or spec["stop"]["training_iteration"]):
        algorithm.train()
    algorithm.save_to_path(str(checkpoint))
    ledger = dict(vars(algorithm.ledger))
    algorithm.stop()
    return {
        "labels": ledger["num_env_steps"],
        "ledger": ledger,
        "trained_s": time.monotonic() - start_s,
        "trained_cpu_s": time.process_time() - start_cpu_s,
    }


def runs_of(arm: str, folder: Path) -> list[Run]:
    """Return the runs of an arm that have a file, in the order of their seeds."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{arm}-*.json"))]


def per_solved(run: Run) -> float:
    """Slow steps per solved target, those of training included."""
    solved = run["num_solved"]
    return (run["labels"] + run["slow_steps"]) / solved if solved else float("inf")


def describe(run: Run) -> str:
    """Return one line about a run."""
    return (
        f"{run['labels']} labels, verified at once {run['num_first']}, broken {run['num_broken']}, "
        f"with retries {run['num_solved']}, {per_solved(run):.2f} slow steps per solved target, "
        f"{run['trained_s']:.0f} s ({run['trained_cpu_s']:.0f} s of one core)"
    )


def table(runs: dict[str, list[Run]]) -> list[list[str]]:
    """Return the rows of the table, its header first."""

    def mean(values: list[float], form: str) -> str:
        center, half = interval(values)
        return form.format(center) + (f" ± {form.format(half)}" if np.isfinite(half) else "")

    columns: dict[str, Callable[[list[Run]], str]] = {
        "seeds": lambda found: str(len(found)),
        "slow runs in training": lambda found: mean([r["labels"] for r in found], "{:.0f}"),
        "verified, one slow run": lambda found: mean(_shares(found, "num_first"), "{:.1f} %"),
        "each seed": lambda found: ", ".join(
            f"{share:.0f}" for share in _shares(found, "num_first")
        ),
        "promised, but failed": lambda found: mean(_shares(found, "num_broken"), "{:.1f} %"),
        "verified with retries": lambda found: mean(_shares(found, "num_solved"), "{:.1f} %"),
        "slow runs per solved target": lambda found: mean(list(map(per_solved, found)), "{:.2f}"),
        "training, one core": lambda found: mean([r["trained_cpu_s"] for r in found], "{:.0f} s"),
    }
    header = ["arm", *columns]
    return [
        header,
        *([name, *(c(found) for c in columns.values())] for name, found in runs.items()),
    ]


def _shares(runs: list[Run], count: str) -> list[float]:
    return [100 * run[count] / run["num_proposals"] for run in runs]


if __name__ == "__main__":
    main()
