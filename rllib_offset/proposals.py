"""Designs that a trained agent proposes in fast + offset, verified in the slow simulator.

For pairs whose slow simulator can be put into any state (level 1). Reads a checkpoint; needs no
running Ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    REWARD,
    STATE,
    TERMINATED,
    Columns,
    slice_columns,
)
from rllib_offset.correction import OffsetCorrection
from rllib_offset.env_runner import OffsetBroadcast
from rllib_offset.measurements import MeasurementReader
from rllib_offset.replay.requests import ReplayRequest, valid_rows
from rllib_offset.replay.worker import replay
from rllib_offset.rollouts import greedy_trajectories, restored_pair, restored_runner
from rllib_offset.seeded_env_runner import EVALUATION_SEED

__all__ = ["Attempt", "Proposal", "ProposalSummary", "propose", "summarise"]

_MAX_LANES = 100  # episodes side by side
Specs = dict[str, float]


@dataclass(frozen=True)
class Attempt:
    """One design: the step of an episode that the agent expects most of, and what came of it.

    A design passes where its step ends the episode.

    Args:
        state: Simulator state before the step, ``(S,)``.
        action: Action of the step.
        promised: Reward, and the measurement where there is one, in fast + offset; by name.
        promised_passes: Whether fast + offset says that the design passes.
        verified: The same in the slow simulator; empty if it was not asked, or gave nothing valid.
        passes: Whether the slow simulator says that it passes; None if it was not asked.
        slow_steps: Slow steps spent.
        error: Why the slow simulator gave nothing.
    """

    state: NDArray[np.float64]
    action: NDArray[Any]
    promised: Specs
    promised_passes: bool
    verified: Specs
    passes: bool | None
    slow_steps: int
    error: str = ""


@dataclass(frozen=True)
class Proposal:
    """What the agent proposes for one episode.

    Args:
        seed: Of the episode's reset, which draws the task where the configuration leaves it open.
        design: The last attempt's design, by name.
        attempts: One, and one more for every retry.
    """

    seed: int
    design: Specs
    attempts: tuple[Attempt, ...]

    @property
    def passes(self) -> bool | None:
        """Whether the design passes in the slow simulator; None if that was not asked."""
        return self.attempts[-1].passes

    @property
    def slow_steps(self) -> int:
        """Slow steps spent on all attempts."""
        return sum(attempt.slow_steps for attempt in self.attempts)

    def __str__(self) -> str:
        last, unknown = self.attempts[-1], float("nan")
        rows = [f"{name:<24}{value:>14.6g}" for name, value in self.design.items()]
        rows += ["", f"{'':<24}{'promised':>14}{'verified':>14}"]
        for name, value in last.promised.items():
            rows.append(f"{name:<24}{value:>14.5g}{last.verified.get(name, unknown):>14.5g}")
        rows.append(f"{'passes':<24}{_word(last.promised_passes):>14}{_word(last.passes):>14}")
        if last.error:
            rows.append(last.error)
        retries = len(self.attempts) - 1
        rows.append(f"slow steps spent: {self.slow_steps}, retries: {retries}")
        return "\n".join(rows)


def propose(
    checkpoint: str | Path,
    *,
    env_config: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (EVALUATION_SEED,),
    verify: bool = True,
    retries: int = 2,
) -> list[Proposal]:
    """Let the trained agent propose a design per episode, and verify each by one slow step.

    The greedy policy runs in fast + offset, which costs no slow step.  A design that fails in the
    slow simulator shows by how much the offset was off there: that residual is added to every
    prediction, and the episode is played again.

    Args:
        checkpoint: Of OffsetA2C or OffsetPPO, on a pair of level 1.
        env_config: Arguments of the fast environment that differ from those in training, e.g. a
            ``target``.  The slow one learns them from the simulator's state.
        seeds: One episode each.
        verify: Whether to spend a slow step per attempt.
        retries: How often to correct the prediction and try again.

    Raises:
        ValueError: If the folder is no such checkpoint, or single steps of the slow simulator
            cannot be taken.
    """
    if retries < 0:
        raise ValueError(f"`retries` must be >= 0, got {retries}")
    runner = restored_runner(
        Path(checkpoint), "training", lanes=min(len(seeds), _MAX_LANES), env_config=env_config
    )
    slow = restored_pair(Path(checkpoint)).make_slow()
    try:
        proposer = _Proposer(runner, slow)
        firsts = [proposer.attempt(step, verify) for step in proposer.best_steps(seeds)]
        return [
            proposer.with_retries(seed, first, retries)
            for seed, first in zip(seeds, firsts, strict=True)
        ]
    finally:
        slow.close()  # type: ignore[no-untyped-call]
        runner.stop()


@dataclass(frozen=True)
class ProposalSummary:
    """How proposals for many tasks did.

    Args:
        num_proposals: Tasks.
        num_first: Verified at the first attempt.
        num_broken: Promised at the first attempt, and failed in the slow simulator.
        num_solved: Verified at some attempt.
        slow_steps: Slow steps of all attempts.
    """

    num_proposals: int
    num_first: int
    num_broken: int
    num_solved: int
    slow_steps: int

    def __str__(self) -> str:
        total = self.num_proposals
        rows = (
            ("proposals", f"{total}"),
            ("verified at once", f"{self.num_first} ({self.num_first / total:.0%})"),
            ("promised, but failed", f"{self.num_broken} ({self.num_broken / total:.0%})"),
            ("verified after retries", f"{self.num_solved} ({self.num_solved / total:.0%})"),
            ("slow steps", f"{self.slow_steps}"),
        )
        return "\n".join(f"{name:<24}{text:>14}" for name, text in rows)


def summarise(proposals: Sequence[Proposal]) -> ProposalSummary:
    """Count what became of the proposals."""
    firsts = [proposal.attempts[0] for proposal in proposals]
    return ProposalSummary(
        num_proposals=len(proposals),
        num_first=sum(first.passes is True for first in firsts),
        num_broken=sum(first.promised_passes and first.passes is False for first in firsts),
        num_solved=sum(proposal.passes is True for proposal in proposals),
        slow_steps=sum(proposal.slow_steps for proposal in proposals),
    )


@dataclass(frozen=True)
class _Step:
    """A step in fast + offset, columns of one row, and the correction it was seen with."""

    fast: Columns
    seen: Columns
    correction: OffsetCorrection


@dataclass(frozen=True)
class _Tried:
    attempt: Attempt
    residual: NDArray[np.float32] | None  # slow minus promised, ``(K,)``, where there is a way back
    correction: OffsetCorrection


class _Proposer:
    """Plays the agent in fast + offset, and asks the slow simulator about single steps."""

    def __init__(self, runner: Any, slow: gym.Env[Any, Any]) -> None:
        if runner.offset is None:
            raise ValueError("designs are proposed by agents of OffsetA2C and OffsetPPO only")
        self._runner, self._slow = runner, slow
        self._correction: OffsetCorrection = runner.offset.correction
        self._reader = MeasurementReader.of(runner.env)

    def best_steps(
        self, seeds: Sequence[int], correction: OffsetCorrection | None = None
    ) -> list[_Step]:
        """Play an episode per seed; return the step of each that promises the highest reward."""
        correction = correction or self._correction
        self._runner.set_offset(OffsetBroadcast(0, correction, records_states=True))
        steps = []
        for trajectory in greedy_trajectories(self._runner, list(seeds)):
            best = int(np.argmax(trajectory.rewards))
            fast = slice_columns(trajectory.fast, slice(best, best + 1))
            steps.append(_Step(fast, correction.steps(fast, self._reader), correction))
        return steps

    def attempt(self, step: _Step, verify: bool) -> _Tried:
        """Turn a step into an attempt, with or without asking the slow simulator."""
        promised = _named(self._slow, {**step.fast, **step.seen})
        unasked = Attempt(
            state=step.fast[STATE][0],
            action=step.fast[ACTION][0],
            promised=promised,
            promised_passes=bool(step.seen[TERMINATED][0]),
            verified={},
            passes=None,
            slow_steps=0,
        )
        if not verify:
            return _Tried(unasked, None, step.correction)
        fast = step.fast
        request = ReplayRequest((0,), "steps", fast[ACTION], states=fast[STATE], fast=fast)
        result = replay(request, self._slow)
        asked = replace(unasked, slow_steps=result.num_steps, passes=False)
        if result.slow is None or not valid_rows(result).any():
            error = result.error or "the slow simulator's answer is invalid"
            return _Tried(replace(asked, error=error), None, step.correction)
        passes = bool(result.slow[TERMINATED][0])
        asked = replace(asked, passes=passes, verified=_named(self._slow, result.slow))
        residual = step.correction.layout.offsets(result.slow, {**fast, **step.seen})[0]
        is_correctable = step.correction.predictor is not None
        return _Tried(asked, residual if is_correctable else None, step.correction)

    def with_retries(self, seed: int, first: _Tried, retries: int) -> Proposal:
        """Correct the prediction by what was observed, and try again, while the design fails."""
        tried = [first]
        while len(tried) <= retries and tried[-1].attempt.passes is False:
            last = tried[-1]
            if last.residual is None:
                break
            (step,) = self.best_steps([seed], last.correction.shifted(last.residual))
            tried.append(self.attempt(step, verify=True))
        attempts = tuple(each.attempt for each in tried)
        return Proposal(seed, _design(self._slow, attempts[-1]), attempts)


def _design(env: gym.Env[Any, Any], attempt: Attempt) -> Specs:
    """Name the design of a step as the environment does, or by number."""
    name_design = getattr(env.unwrapped, "name_design", None)
    if name_design is not None:
        return dict(name_design(attempt.state, attempt.action))
    parts = {"state": attempt.state, "action": np.ravel(attempt.action)}
    return {f"{name}[{i}]": float(x) for name, part in parts.items() for i, x in enumerate(part)}


def _named(env: gym.Env[Any, Any], columns: Columns) -> Specs:
    """Name reward and measurement of one row, the measurement as the environment does."""
    specs: Specs = {"reward": float(columns[REWARD][0])}
    if MEASUREMENT not in columns:
        return specs
    measurement = columns[MEASUREMENT][0]
    name_measurement = getattr(env.unwrapped, "name_measurement", None)
    if name_measurement is not None:
        return dict(name_measurement(measurement)) | specs
    return {f"measurement[{i}]": float(x) for i, x in enumerate(measurement)} | specs


def _word(passes: bool | None) -> str:
    return {True: "yes", False: "no", None: "not asked"}[passes]
