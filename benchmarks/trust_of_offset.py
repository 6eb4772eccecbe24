"""What the predictor knows of its own error, and what a fast simulator is worth to it, over seeds.

    python benchmarks/trust_of_offset.py --seeds 10 --out trust_results

**Trust**: 100 labels of one half of PointMass's square, then three at a time as in training. Shares
of fresh labels: covered by the calibrated 90 % intervals, and flagged as outside of the labelled
region, in the labelled half and in the other one.

**Worth**: mean error on fresh labels after 200 labels of RuggedPointMass, with the fast simulator
and with one that knows nothing of the reward, so that the predictor must learn all of it.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from harness import interval, markdown
from numpy.typing import NDArray
from pairs import BlindPointMass

from rllib_offset.columns import OBS
from rllib_offset.correction import OffsetLayout
from rllib_offset.initial_labels import initial_requests
from rllib_offset.offset_trainer import OffsetTrainer
from rllib_offset.pair import EnvPair
from rllib_offset.pair_facts import probe_pair
from rllib_offset.replay.worker import replay

IDS = "rllib_offset.envs:rllib_offset/{}-v0"
FRESH = 1000
Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def buy_labels(pair: EnvPair, number: int, seed: int, targets: tuple[str, ...]) -> Rows:
    """Return features ``(N, D)``, offsets ``(N, K)`` and positions ``(N, 2)`` of spread labels."""
    facts = probe_pair(pair)
    layout = OffsetLayout(("obs",), targets, facts.obs_dim, facts.action_space)
    (request,) = initial_requests(pair, facts, number, seed=seed, steps_per_request=number)
    result = replay(request, pair.make_slow(), pair.make_fast())
    features = layout.features(result.fast)
    return features, layout.offsets(result.slow, result.fast), result.fast[OBS][:, :2]


def trust(seed: int, ensemble_size: int) -> dict[str, float]:
    """Train on the left half of the square, ask about both."""
    pair = EnvPair(IDS.format("RewardOffsetPointMass"), IDS.format("PointMass"))
    features, offsets, positions = buy_labels(pair, 4 * FRESH, seed, ("obs", "reward"))
    order = np.random.default_rng(seed).permutation(len(features))
    left, right = (order[side[order]] for side in (positions[:, 0] < 0, positions[:, 0] >= 0))
    trainer = OffsetTrainer(
        features.shape[1], offsets.shape[1], ensemble_size=ensemble_size, seed=seed
    )
    trainer.add(features[left[:100]], offsets[left[:100]])
    trainer.fit()
    for first in range(100, 220, 3):
        rows = left[first : first + 3]
        trainer.add(features[rows], offsets[rows])
        result = trainer.fit(4)
    fresh, unseen = left[220 : 220 + FRESH], right[:FRESH]
    error = np.abs(offsets[fresh] - trainer.numpy_predictor()(features[fresh]))
    covered = error <= trainer.half_width(features[fresh])
    return {
        "covered": float(covered[:, -1].mean()),  # the reward's; positions have no offset
        "covered, as reported": result.coverage,
        "flagged, other half": float(trainer.is_outside(features[unseen]).mean()),
        "flagged, labelled half": float(trainer.is_outside(features[fresh]).mean()),
    }


def worth(seed: int) -> dict[str, float]:
    """Error on fresh labels with the fast simulator and without it."""
    errors = []
    for fast in (IDS.format("RewardOffsetRuggedPointMass"), BlindPointMass):
        pair = EnvPair(fast, IDS.format("RuggedPointMass"))
        features, offsets, _ = buy_labels(pair, 200, seed, ("reward",))
        trainer = OffsetTrainer(features.shape[1], 1, initial_steps=2000, seed=seed)
        trainer.add(features, offsets)
        trainer.fit()
        fresh, fresh_offsets, _ = buy_labels(pair, FRESH, seed + 1000, ("reward",))
        errors.append(float(np.abs(trainer.numpy_predictor()(fresh) - fresh_offsets).mean()))
    return {"with fast": errors[0], "without": errors[1], "without / with": errors[1] / errors[0]}


def rows_of(name: str, results: list[dict[str, Any]]) -> list[list[str]]:
    """Return a row per value: mean, 95 % interval, lowest and highest over the seeds."""
    rows = []
    for key in results[0]:
        values = [result[key] for result in results]
        mean, half = interval(values)
        extremes = [f"{min(values):.3f}", f"{max(values):.3f}"]
        rows.append([name, key, f"{mean:.3f} ± {half:.3f}", *extremes])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("trust_results"))
    options = parser.parse_args()
    seeds = range(options.seeds)
    rows = [["predictor", "share or error", "mean", "lowest", "highest"]]
    rows += rows_of("five members", [trust(seed, 5) for seed in seeds])
    rows += rows_of("one member", [trust(seed, 1) for seed in seeds])
    rows += rows_of("rugged, 200 labels", [worth(seed) for seed in seeds])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "trust.md").write_text(markdown(rows) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
