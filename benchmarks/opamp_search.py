"""The op-amp without reinforcement learning: what search reaches on the same targets.

`SurrogateSearch` buys labels where a search over fast + offset ends, in rounds as the agent does,
and then searches anew for every target.  `evolve` asks the extracted simulation alone.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import differential_evolution
from scipy.stats import qmc

from rllib_offset.envs.opamp.design import HIGH, LOW
from rllib_offset.envs.opamp.hand import hand_specs
from rllib_offset.envs.opamp.measurement import Evaluation, from_learned, to_learned
from rllib_offset.envs.opamp.task import OpAmpTask
from rllib_offset.offset_trainer import OffsetTrainer

Designs = NDArray[np.int64]
Floats = NDArray[np.float64]
Evaluate = Callable[[Designs], Evaluation]

TRAINED, JUDGED = OpAmpTask(), OpAmpTask(pass_threshold=-0.02)  # as the agent's two simulators
SPREAD_LABELS, ROUND_LABELS = 100, 40  # as in opamp-offset-ppo
DRAWN, KEPT, CHANGED, CHANGES = 3000, 50, 400, 20  # of a search
EVALUATIONS = DRAWN + CHANGES * (KEPT + CHANGED)  # of fast + offset, per target
INPUTS, SPECS = 18, 4


class SurrogateSearch:
    """Hand equations plus an offset learned from labels, and a random search over them.

    Args:
        evaluate: The slow simulator.
        seed: Of labels, predictor and searches.
    """

    def __init__(self, evaluate: Evaluate, seed: int) -> None:
        self._evaluate = evaluate
        self._rng = np.random.default_rng(seed)
        self._trainer = OffsetTrainer(
            INPUTS, SPECS, ensemble_size=3, initial_steps=1500, steps_per_iteration=1500, seed=seed
        )
        self.num_labels = 0

    def train(self, num_labels: int) -> None:
        """Buy labels: first spread over all designs, then in rounds where the search ends."""
        cube = qmc.Sobol(len(LOW), rng=self._rng).random_base2(7)[:SPREAD_LABELS]
        self._label(np.floor(LOW + cube * (HIGH - LOW + 1)).astype(np.int64))
        while self.num_labels < num_labels:
            wanted = min(ROUND_LABELS, num_labels - self.num_labels)
            states = np.stack([TRAINED.draw_state(self._rng) for _ in range(wanted)])
            self._label(self.search(TRAINED.targets(states)))

    def search(self, targets: Floats, residual: Floats | float = 0.0) -> Designs:
        """Return the design that promises most, per target: ``(T, 4) -> (T, 7)``.

        Args:
            targets: ``(T, 4)``.
            residual: Added to every prediction, ``(4,)``.
        """
        shape = (len(targets), DRAWN, len(LOW))
        designs = self._rng.integers(LOW, HIGH, endpoint=True, size=shape)
        for change in range(CHANGES):
            best = _best(designs, self._scores(designs, targets, residual), KEPT)
            parents = best[:, self._rng.integers(KEPT, size=CHANGED)]
            steps = self._rng.normal(scale=max(1.5, 12.0 * 0.8**change), size=parents.shape)
            steps *= self._rng.random(parents.shape) < 0.5
            moved = np.clip(parents + np.rint(steps).astype(np.int64), LOW, HIGH)
            designs = np.concatenate([best, moved], axis=1)
        return _best(designs, self._scores(designs, targets, residual), 1)[:, 0]

    def predict(self, designs: Designs) -> Floats:
        """Return fast + offset on the learned scale: ``(..., 7) -> (..., 4)``."""
        fast = to_learned(hand_specs(designs))
        rows = self._inputs(designs, fast).reshape(-1, INPUTS)
        offsets = self._trainer.numpy_predictor()(rows)
        return np.asarray(fast + offsets.reshape(fast.shape), np.float64)

    def solve(self, target: Floats, first: Designs, retries: int) -> dict[str, Any]:
        """Verify a design ``(7,)``; while it fails, correct the prediction and search again."""
        residual: Floats = np.zeros(SPECS)
        attempts: list[dict[str, bool]] = []
        design = first
        while True:
            seen = self.predict(design) + residual
            promised = bool(TRAINED.passes(from_learned(seen), target))
            found = self._evaluate(design)
            passes = found.is_valid and bool(JUDGED.passes(found.specs, target))
            attempts.append({"promised": promised, "passes": passes})
            if passes or len(attempts) > retries or not found.is_valid:
                break
            residual = residual + to_learned(found.specs) - seen
            design = self.search(target[None], residual)[0]
        return {"first": attempts[0], "spent": len(attempts), "solved": attempts[-1]["passes"]}

    def _scores(self, designs: Designs, targets: Floats, residual: Floats | float) -> Floats:
        """Return the shortfall, or the smallest margin of a design that passes: ``(T, N)``."""
        specs, wanted = from_learned(self.predict(designs) + residual), targets[:, None]
        shortfall = TRAINED.shortfall(specs, wanted)
        margins = TRAINED.margins(specs, wanted).min(axis=-1)
        return np.where(shortfall < 0.0, shortfall, margins)

    def _label(self, designs: Designs) -> None:
        found = [self._evaluate(design) for design in designs]
        valid = np.array([evaluation.is_valid for evaluation in found])
        slow = to_learned(np.stack([evaluation.specs for evaluation in found]))[valid]
        fast = to_learned(hand_specs(designs[valid]))
        groups = self.num_labels + np.flatnonzero(valid)
        inputs = self._inputs(designs[valid], fast)
        self._trainer.add(inputs, (slow - fast).astype(np.float32), groups)
        self._trainer.fit()
        self.num_labels += len(designs)

    def _inputs(self, designs: Designs, fast: Floats) -> NDArray[np.float32]:
        states = np.zeros((*designs.shape[:-1], 12))  # the offset depends on the sizes alone
        states[..., : len(LOW)] = designs
        return TRAINED.predictor_inputs(fast, states, None)


def evolve(evaluate: Evaluate, target: Floats, seed: int, at_most: int) -> int | None:
    """Size a design by differential evolution on the slow simulator alone.

    Returns:
        Slow runs until a design passed, each design counted once; None if none did.
    """
    shortfalls: dict[tuple[float, ...], float] = {}

    def objective(sizes: Floats) -> float:
        key = tuple(np.rint(sizes).tolist())
        if key not in shortfalls:
            if len(shortfalls) == at_most:
                raise _EndedError
            specs = evaluate(np.array(key, np.int64)).specs
            shortfalls[key] = -float(JUDGED.shortfall(specs, target))
            if JUDGED.passes(specs, target):
                raise _EndedError
        return shortfalls[key]

    bounds = list(zip(LOW, HIGH, strict=True))
    with suppress(_EndedError):
        differential_evolution(
            objective,
            bounds,
            integrality=np.ones(len(LOW)),
            popsize=4,
            tol=0.0,
            polish=False,
            rng=seed,
        )
    return len(shortfalls) if min(shortfalls.values()) <= -JUDGED.pass_threshold else None


class _EndedError(Exception):
    """A design passed, or enough were simulated."""


def _best(designs: Designs, scores: Floats, number: int) -> Designs:
    """Return the designs with the highest scores: ``(T, N, 7) -> (T, number, 7)``."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :number]
    return np.take_along_axis(designs, order[..., None], axis=1)
