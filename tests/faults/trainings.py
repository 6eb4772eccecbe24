"""Whole trainings with faults in their middle, and what must hold when they are over."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from rllib_offset.fingerprint import label_location
from rllib_offset.store import LabelStore
from rllib_offset.store_report import verify

NUM_ITERATIONS = 30
STRIKES_AT = 10  # iteration, from 0
NUM_WORKERS = 4
FAST = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
SLOW = "rllib_offset.envs:rllib_offset/PointMass-v0"


def settings(folder, seed=0, *, simulator=None, **changes):
    """The configuration of a training that keeps everything below a folder."""
    for name in ("faults", "witness"):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
    slow = {"faults": f"{folder}/faults", "witness": f"{folder}/witness", "step_cost_s": 0.05}
    return {
        "env": FAST,
        "slow_env": "tests.faults.simulators.MoodyPointMass",
        "slow_env_config": slow | (simulator or {}),
        "num_replay_workers": NUM_WORKERS,
        "num_cpus_per_replay_worker": 0.25,
        "num_env_runners": 1,
        "num_cpus_per_env_runner": 0.5,
        "num_envs_per_env_runner": 10,
        "step_timeout_s": 2.0,
        "label_level": "sample",
        "initial_labels": 50,
        "labels_per_iteration": 8,
        "gamma": 0.95,
        "lr": [[0, 0.001], [1000 * NUM_ITERATIONS, 0.0001]],
        "vf_loss_coeff": 0.5,
        "vf_clip_param": float("inf"),
        "use_kl_loss": False,
        "model_config": {
            "fcnet_hiddens": [64, 64],
            "fcnet_activation": "tanh",
            "vf_share_layers": False,
        },
        "evaluation_interval": NUM_ITERATIONS,
        "evaluation_config": {"env": SLOW, "env_config": {}, "correct": False, "explore": False},
        "seed": seed,
    } | changes


@dataclass(frozen=True)
class Outcome:
    """What a training came to, in its own books, in the store and in the simulator's own count.

    Args:
        score: In the slow simulator, 0 for random and 1 for optimal.
        finished: Slow steps that the simulators finished, as they counted themselves.
        bought: Slow steps in the ledger.
        stored: Rows in the store.
        bought_twice: Rows in the store that were complete already.
        wasted: Steps bought again after a trajectory broke off, and answers of no use.
        invalid: Results that are no numbers.
        lost: Labels that no attempt could give.
        imbalance: Of the books.
        damaged: Segments that were left out.
        retries: Of replays that failed.
        replaced: Workers that died, hung or were killed.
        recycled: Workers that had grown old.
        seconds: From the first iteration to the last.
    """

    score: float
    finished: int
    bought: int
    stored: int
    bought_twice: int
    wasted: int
    invalid: int
    lost: int
    imbalance: int
    damaged: int
    retries: int
    replaced: int
    recycled: int
    seconds: float

    @property
    def lost_results(self):
        """Finished slow results that are in nobody's books."""
        return self.finished - self.bought


def train(folder, seed=0, faults=None, **changes):
    """Train in this process; ``faults[i](algorithm)`` is called before iteration ``i``."""
    from rllib_offset import OffsetPPO

    algorithm = OffsetPPO(config=settings(folder, seed, label_store=f"{folder}/labels", **changes))
    start_s = time.monotonic()
    try:
        for iteration in range(NUM_ITERATIONS):
            if faults and iteration in faults:
                faults[iteration](algorithm)
            result = algorithm.train()
            buffer = algorithm.estimator.trainer.buffer
            assert algorithm.ledger.imbalance(buffer.num_added) == 0
        return outcome(algorithm, folder, result, time.monotonic() - start_s)
    finally:
        algorithm.stop()


def outcome(algorithm, folder, result, seconds):
    report = verify(LabelStore(label_location(algorithm.pair, f"{folder}/labels")))
    ledger, stats = algorithm.ledger, algorithm.replay.stats()
    return Outcome(
        score=float(result["evaluation"]["normalised_score"]),
        finished=num_finished(folder),
        bought=ledger.num_env_steps,
        stored=report.num_rows,
        bought_twice=report.num_bought_twice,
        wasted=ledger.num_env_steps_wasted,
        invalid=ledger.num_invalid,
        lost=ledger.num_labels_lost,
        imbalance=ledger.imbalance(algorithm.estimator.trainer.buffer.num_added),
        damaged=len(report.damaged),
        retries=stats["num_retries"],
        replaced=stats["num_workers_replaced"],
        recycled=stats["num_workers_recycled"],
        seconds=seconds,
    )


def num_finished(folder):
    """Slow steps that finished, as the simulators themselves have counted them."""
    return sum(path.stat().st_size for path in (Path(folder) / "witness").iterdir())


def interval_of_one_more(scores):
    """Mean and half width of the 95 % interval in which the score of one more run lies."""
    scores = np.asarray(scores, float)
    num = len(scores)
    half = student.ppf(0.975, num - 1) * scores.std(ddof=1) * np.sqrt(1 + 1 / num)
    return float(scores.mean()), float(half)
