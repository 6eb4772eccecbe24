"""The op-amp: unseen targets verified in the extracted simulation, per way to train.

    python benchmarks/opamp.py --seeds 3 --targets 100 --out opamp_results

Writes opamp.md and a file per run into the folder; a run that is there already is not repeated, and
one whose checkpoint is there is only judged.  Every arm is judged on the same fresh targets: one
slow step verifies the design that the greedy policy (or the search) ends in, and up to `--retries`
more follow where it fails.  `--figures FOLDER` draws what is there.
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
from gymnasium.utils.seeding import np_random
from harness import TUNED_CONFIGS, Arm, interval, markdown
from numpy.typing import NDArray
from opamp_figures import draw_all
from opamp_search import TRAINED, SurrogateSearch, evolve
from opamp_store import STORED, StoredSimulator

import rllib_offset
from rllib_offset.config_keys import translate_keys
from rllib_offset.envs.opamp.simulators import open_simulator
from rllib_offset.envs.opamp.task import EPISODE_STEPS
from rllib_offset.proposals import propose, summarise

STORE = "designs.sqlite"
FIRST_TARGET = 900_000  # seeds that neither training nor its evaluation draws from

OFFSET = "opamp-offset-ppo"
FEWER = {"initial_labels": 50, "max_slow_steps": 150}
RANDOM = {"label_rounds": None, "label_choice": "uniform", "labels_per_iteration": 0}
SLOW_ONLY = {
    "env": STORED,
    "env_config": {"pass_threshold": -0.02},
    "train_batch_size_per_learner": 60,  # five batches of two episodes
    "minibatch_size": 30,
    "num_envs_per_env_runner": 2,
    "lr": 1e-3,
}
ARMS = [
    Arm("transfer", "opamp-transfer"),
    Arm("offset, rounds, 300 labels", OFFSET),
    Arm(
        "offset, rounds, 150 labels",
        OFFSET,
        {**FEWER, "label_rounds": {"labels": 25, "interval": 8, "tolerance": 0.02}},
    ),
    Arm("offset, random, 300 labels", OFFSET, {**RANDOM, "initial_labels": 300}),
    Arm("PPO, slow only, 300 steps", "opamp-transfer", SLOW_ONLY, 5, is_slow_only=True),
]
SEARCH, SEARCH_LABELS = "surrogate + search, no RL", 300
EVOLUTION, EVOLUTION_TARGETS, EVOLUTION_RUNS = "differential evolution, slow only", 10, 400
NAMES = [*(arm.name for arm in ARMS), SEARCH]

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--only", action="append", help="arms to run, by name; default all")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    parser.add_argument("--out", type=Path, default=Path("opamp_results"))
    options = parser.parse_args()
    options.out = options.out.resolve()  # Ray changes the folder of its workers
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.only or [*NAMES, EVOLUTION]
    rllib_offset.register()
    for seed, arm in product(range(options.seeds), ARMS):
        if arm.name in wanted:
            keep(arm.name, seed, options, lambda arm=arm, seed=seed: run_arm(arm, seed, options))
    for seed in range(options.seeds):
        if SEARCH in wanted:
            keep(SEARCH, seed, options, lambda seed=seed: run_search(seed, options))
    evolution = options.out / "evolution.json"
    if EVOLUTION in wanted and not evolution.exists():
        evolution.write_text(json.dumps(run_evolution(options)))
    ray.shutdown()
    runs = {name: runs_of(name, options.out) for name in NAMES}
    text = markdown(table({name: found for name, found in runs.items() if found})) + "\n"
    if evolution.exists():
        text += "\n" + describe_evolution(json.loads(evolution.read_text())) + "\n"
    (options.out / "opamp.md").write_text(text)
    print(text)
    if options.figures:
        draw_all({name: found for name, found in runs.items() if found}, options.figures)


def keep(name: str, seed: int, options: argparse.Namespace, run: Callable[[], Run]) -> None:
    """Write what a run gives to its file, unless it is there."""
    path = options.out / f"{name}-{seed}.json"
    if not path.exists():
        found = run()
        path.write_text(json.dumps(found))
        print(f"{name} seed {seed}: {describe(found)}", flush=True)


def run_arm(arm: Arm, seed: int, options: argparse.Namespace) -> Run:
    """Train an arm with one seed, then let it propose a design for every target."""
    checkpoint = options.out / "checkpoints" / f"{arm.name}-{seed}"
    trained = checkpoint / "trained.json"
    if not trained.exists():
        trained.write_text(json.dumps(train(arm, seed, checkpoint, options.out / STORE)))
    proposals = propose(checkpoint, seeds=target_seeds(options), retries=options.retries)
    firsts = [proposal.attempts[0] for proposal in proposals]
    run = {
        "arm": arm.name,
        "seed": seed,
        **json.loads(trained.read_text()),
        **asdict(summarise(proposals)),
        "spent": [proposal.slow_steps for proposal in proposals],
        "solved": [proposal.passes is True for proposal in proposals],
        "targets": TRAINED.targets(np.stack([first.state for first in firsts])).tolist(),
        "designs": [TRAINED.designs(TRAINED.move(f.state, f.action)).tolist() for f in firsts],
        "promised": [first.promised for first in firsts],
        "verified": [first.verified for first in firsts],
        "promised_passes": [first.promised_passes for first in firsts],
        "passes": [first.passes for first in firsts],
    }
    if arm.is_slow_only:  # it plays in the slow simulator, to the end where it fails
        run["spent"] = [EPISODE_STEPS] * len(proposals)
        run["slow_steps"] = sum(run["spent"])
    return run


def target_seeds(options: argparse.Namespace) -> range:
    """Return a seed per unseen target."""
    return range(FIRST_TARGET, FIRST_TARGET + options.targets)


def drawn_targets(options: argparse.Namespace) -> NDArray[np.float64]:
    """Return the targets ``(T, 4)`` that an environment draws with those seeds."""
    states = [TRAINED.draw_state(np_random(seed)[0]) for seed in target_seeds(options)]
    return TRAINED.targets(np.stack(states))


def run_search(seed: int, options: argparse.Namespace) -> Run:
    """Let a random search over fast + offset do what the agent does, at as many labels."""
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    search = SurrogateSearch(slow_simulator(options).evaluate, seed)
    search.train(SEARCH_LABELS)
    trained_s, trained_cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
    targets = drawn_targets(options)
    designs = search.search(targets)
    found = [search.solve(t, d, options.retries) for t, d in zip(targets, designs, strict=True)]
    firsts = [each["first"] for each in found]
    return {
        "arm": SEARCH,
        "seed": seed,
        "labels": search.num_labels,
        "trained_s": trained_s,
        "trained_cpu_s": trained_cpu_s,
        "num_proposals": len(found),
        "num_first": sum(first["passes"] for first in firsts),
        "num_broken": sum(first["promised"] and not first["passes"] for first in firsts),
        "num_solved": sum(each["solved"] for each in found),
        "slow_steps": sum(each["spent"] for each in found),
        "spent": [each["spent"] for each in found],
        "solved": [each["solved"] for each in found],
    }


def run_evolution(options: argparse.Namespace) -> list[int | None]:
    """Size a design per target on the slow simulator alone; return the slow runs it took."""
    evaluate = slow_simulator(options).evaluate
    targets = drawn_targets(options)[:EVOLUTION_TARGETS]
    return [evolve(evaluate, t, seed, EVOLUTION_RUNS) for seed, t in enumerate(targets)]


def slow_simulator(options: argparse.Namespace) -> StoredSimulator:
    """Return the extracted simulation, with its file."""
    return StoredSimulator(open_simulator("extracted"), options.out / STORE)


def describe_evolution(runs: list[int | None]) -> str:
    """Return one line about the slow runs per target, None where it gave up."""
    solved = [run for run in runs if run is not None]
    return (
        f"{EVOLUTION}: {len(solved)} of {len(runs)} targets solved within {EVOLUTION_RUNS} slow "
        f"runs each; median {np.median(solved):.0f}, most {max(solved)}"
    )


def train(arm: Arm, seed: int, checkpoint: Path, store: Path) -> dict[str, Any]:
    """Train as the tuned config says, without evaluation; return what it cost."""
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    spec = next(iter(yaml.safe_load((TUNED_CONFIGS / f"{arm.tuned}.yaml").read_text()).values()))
    config = {**spec["config"], "env": spec["env"], "seed": seed, **arm.overrides}
    config |= {
        "evaluation_interval": None,
        "num_replay_workers": 0,
        "slow_env": STORED,
        "slow_env_config": {**config["slow_env_config"], "store": str(store)},
    }
    if arm.is_slow_only:
        config["env_config"] = {**config["env_config"], "store": str(store)}
    if not ray.is_initialized():  # not at all where every run is only judged
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = ray.tune.registry.get_trainable_cls(spec["run"])(config=translate_keys(config))
    for _ in range(arm.iterations or spec["stop"]["training_iteration"]):
        algorithm.train()
    algorithm.save_to_path(str(checkpoint))
    ledger = dict(vars(algorithm.ledger))
    sampled = config["train_batch_size_per_learner"] * algorithm.iteration
    algorithm.stop()
    return {
        "labels": sampled if arm.is_slow_only else ledger["num_env_steps"],
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
