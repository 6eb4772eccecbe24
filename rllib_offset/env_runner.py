"""The environment runner that corrects what it samples, and asks for labels while it does."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from rllib_offset import metrics
from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    REWARD,
    STATE,
    Columns,
    slice_columns,
)
from rllib_offset.correction import OffsetCorrection
from rllib_offset.errors import SlowSimulatorError, kind_and_message
from rllib_offset.outside import OutsideCounter
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.sampling import EndPicker, Lanes, StepPicker, Trajectory, falls_on, share_of
from rllib_offset.seeded_env_runner import SeededEnvRunner, seeded_torch
from rllib_offset.simulator_state import get_simulator_states, set_simulator_states

__all__ = ["OffsetBroadcast", "OffsetEnvRunner"]

_STEPS = 1_000_000  # sorts requests for single steps behind those for whole episodes


@dataclass(frozen=True)
class OffsetBroadcast:
    """What the driver tells every runner once per iteration.

    Args:
        version: Counts the broadcasts; first word of every label's key.
        correction: The correction to sample with.
        coordinator: Where label requests go; ``None`` where nothing is to be asked for.
        replay_fraction: Share of the trajectories to replay, trajectory level.
        num_step_labels: Single steps to label in this iteration, all runners together, sample
            level.
        choice: Which of the candidates are labelled; those outside of the labelled region come
            first, then ``"uniform"``, any, or ``"uncertain"``, those of the largest spread.
            ``"ends"`` labels what episodes end with and steps on the way.
        candidates_per_label: Steps drawn per label bought.
        steps_per_request: Steps that travel to a replay worker together.
        held_labels: Sorted hashes of the single steps labelled already, which are not asked for
            again.
        max_slow_steps: Slow steps that may be asked for until the next broadcast, in however many
            samples, all runners together.
        request_kind: How a trajectory is replayed: ``"trajectory"`` or ``"resync"``.
        records_states: Whether trajectories carry the fast simulator's states, so that the two
            simulators' dynamics can be compared.
    """

    version: int
    correction: OffsetCorrection
    coordinator: ActorHandle | None = None
    replay_fraction: float = 0.0
    num_step_labels: int = 0
    choice: Literal["uniform", "uncertain", "ends"] = "uniform"
    candidates_per_label: int = 2
    steps_per_request: int = 32
    held_labels: NDArray[np.uint64] | None = None
    max_slow_steps: int | None = None
    request_kind: Literal["trajectory", "resync"] = "trajectory"
    records_states: bool = False


class OffsetEnvRunner(SeededEnvRunner):
    """Samples the fast simulator as the slow one is expected to behave, and asks for labels.

    Until the first broadcast, and wherever ``config.correct`` is false (evaluation in the slow
    simulator), nothing is corrected and nothing is asked for.
    """

    offset: OffsetBroadcast | None = None
    _correction: OffsetCorrection | None = None
    _records_states = False
    _num_slow_steps = 0  # of this sample, in an evaluation
    _allowance: int | None = None  # slow steps that may still be asked for until the next broadcast

    @override(SeededEnvRunner)
    def make_env(self) -> None:
        super().make_env()
        self._requests: list[ReplayRequest] = []  # not handed in yet
        self._acknowledgements: list[ray.ObjectRef[int]] = []
        self._picker = StepPicker.none()
        self._states = np.zeros((self.num_envs, 0))
        self._outside = OutsideCounter()

    def set_offset(self, offset: OffsetBroadcast) -> int:
        """Take over a broadcast; returns its version."""
        self.offset = offset
        limit = offset.max_slow_steps
        self._allowance = None if limit is None else self._share(limit)
        if self.config.correct:
            self._correction = offset.correction.for_rows(self.num_envs)
            needs_state = offset.correction.layout.needs_state
            self._records_states = needs_state or offset.records_states
        return offset.version

    @property
    def may_ask_for_labels(self) -> bool:
        """Whether this runner may spend slow steps now."""
        offset = self.offset
        has_queue = offset is not None and offset.coordinator is not None
        return has_queue and not self.config.in_evaluation

    def request_trajectory(self) -> None:
        """Ask for the slow replay of the episode that ended last, if it is its turn."""
        offset, trajectory = self.offset, self._ended
        if offset is None or trajectory is None:
            return
        num_steps = len(trajectory.rewards)
        if self._allowance is not None:
            num_steps = min(num_steps, self._allowance)
        if num_steps and falls_on(trajectory.ordinal, offset.replay_fraction, self._phase):
            self._request(
                ReplayRequest(
                    key=self._label_key(trajectory.ordinal),
                    kind=offset.request_kind,
                    actions=trajectory.fast[ACTION][:num_steps],
                    seed=trajectory.seed,
                    fast=slice_columns(trajectory.fast, slice(num_steps)),
                )
            )

    def request_steps(self) -> None:
        """Ask for the slow results of the steps picked during the sample, in chunks; once."""
        if self.offset is None:
            return
        steps = self._picker.chosen(
            self.offset.correction, self.offset.choice, self.offset.held_labels, self._reader
        )
        self._picker = StepPicker.none()
        if not steps:
            return
        chunk = self.offset.steps_per_request
        for first in range(0, len(steps[REWARD]), chunk):
            part = slice_columns(steps, slice(first, first + chunk))
            self._request(
                ReplayRequest(
                    key=self._label_key(_STEPS, first),
                    kind="steps",
                    actions=part[ACTION],
                    states=part[STATE],
                    fast=part,
                )
            )

    def hand_in(self) -> None:
        """Hand in the requests that are left, and see that the driver's gather misses none.

        A runner in the driver's process leaves the waiting to the driver, which updates the policy
        first.
        """
        self._submit()
        if self.worker_index:
            ray.get(self.take_acknowledgements())

    def take_acknowledgements(self) -> list[ray.ObjectRef[int]]:
        """Return the answers to ``submit`` that nobody has waited for, and forget them."""
        acknowledgements, self._acknowledgements = self._acknowledgements, []
        return acknowledgements

    def corrected_returns(self, seeds: list[int]) -> list[float]:
        """Return of the greedy policy in fast + offset, one episode per seed.

        Counts nowhere and draws from nothing that training draws from.
        """
        returns = dict.fromkeys(range(len(seeds)), 0.0)
        picker, self._picker = self._picker, StepPicker.none()
        with seeded_torch(0):
            for together in self._roll_out(iter(seeds), None, len(seeds), explore=False):
                returns |= {t.ordinal: float(t.rewards.sum()) for t in together}
        self._picker = picker
        return list(returns.values())

    def _label_key(self, *words: int) -> tuple[int, ...]:
        assert self.offset is not None
        return (self.offset.version, self.worker_index or 0, self._ordinal, *words)

    def _request(self, request: ReplayRequest) -> None:
        if self._allowance is not None:
            self._allowance -= len(request)
        self._requests.append(request)

    def _submit(self) -> None:
        """Hand label requests to the coordinator, those made together in one call; never waits."""
        if not self._requests:
            return
        assert self.offset is not None
        assert self.offset.coordinator is not None
        requests, self._requests = self._requests, []
        self._acknowledgements.append(self.offset.coordinator.submit.remote(requests))

    @override(SeededEnvRunner)
    def _before_sample(self, num_timesteps: int | None, rng: np.random.Generator) -> None:
        self._num_slow_steps = 0
        self._picker = StepPicker.none()
        self._phase = float(rng.random())
        self._outside = OutsideCounter()
        offset = self.offset
        if offset is None or not self.may_ask_for_labels:
            return
        if num_timesteps and offset.num_step_labels:
            quota = self._share(offset.num_step_labels)
            if self._allowance is not None:
                quota = min(quota, self._allowance)
            if offset.choice == "ends":
                self._picker = EndPicker(rng, quota)
                return
            self._picker = StepPicker.draw(rng, num_timesteps, quota, offset.candidates_per_label)

    def _share(self, total: int) -> int:
        return share_of(total, self.worker_index or 0, self.num_workers)

    @override(SeededEnvRunner)
    def _after_sample(self) -> None:
        fraction = self._outside.fraction()
        if fraction is not None:
            self.metrics.log_value(metrics.OUTSIDE_FRACTION, fraction, window=1)

    @override(SeededEnvRunner)
    def _end_episode(self, episode: SingleAgentEpisode, trajectory: Trajectory) -> None:
        self._picker.take(trajectory.fast)
        super()._end_episode(episode, trajectory)

    @override(SeededEnvRunner)
    def _correct_resets(
        self, obs: NDArray[np.float32], measured: Columns, lanes: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        correction = self._correction
        if correction is None or correction.predictor is None:
            return obs
        if MEASUREMENT in measured and correction.layout.corrects_measured_resets:
            measured = measured | {STATE: get_simulator_states(self.env)[lanes]}
            return correction.reset_observations(obs, measured, self._reader)
        return correction.reset_observations(obs)

    @override(SeededEnvRunner)
    def _before_step(self, fast: Columns, running: NDArray[np.bool_]) -> None:
        self._submit()
        if self._records_states or self._picker.wants(running):
            self._states = get_simulator_states(self.env)
        if self._records_states:
            fast[STATE] = self._states

    @override(SeededEnvRunner)
    def _reset(self, starting: NDArray[np.bool_], lanes: Lanes) -> Any:
        if self.config.correct:
            return super()._reset(starting, lanes)
        try:
            return super()._reset(starting, lanes)
        except Exception as error:
            raise self._failure(error, lanes, np.flatnonzero(starting), "reset") from error

    @override(SeededEnvRunner)
    def _step(self, actions: NDArray[Any], lanes: Lanes) -> Any:
        if self.config.correct:
            return super()._step(actions, lanes)
        try:
            result = super()._step(actions, lanes)
        except Exception as error:
            lane = getattr(self.env, "latest_lane", None)  # a native vector is stepped as one
            failed = np.flatnonzero(lanes.running) if lane is None else np.array([lane])
            raise self._failure(error, lanes, failed) from error
        self._num_slow_steps += lanes.num_running
        return result

    def _failure(
        self, error: Exception, lanes: Lanes, failed: NDArray[np.int64], place: str | None = None
    ) -> SlowSimulatorError:
        """Say of the slow simulator, in an evaluation, where it failed."""
        seeds = ", ".join(map(str, lanes.seeds[failed]))
        step = max(0, int(lanes.times[failed[0]]) - 1)
        return SlowSimulatorError(
            f"the slow simulator raised {kind_and_message(error)} in an evaluation "
            f"(seed {seeds}, {place or f'step {step}'})",
            seed=int(lanes.seeds[failed[0]]),
            step=step,
            num_steps=self._num_slow_steps,
        )

    @override(SeededEnvRunner)
    def _correct_steps(self, fast: Columns, running: NDArray[np.bool_]) -> Columns:
        picks, records_states = self._picker.wants(running), self._records_states
        next_states = {}
        if picks or records_states:
            next_states = {NEXT_STATE: get_simulator_states(self.env)}
        if records_states:
            fast |= next_states
        if picks:
            self._picker.pick(fast | {STATE: self._states} | next_states, running)
            if self._picker.has_seen_all:  # the slow simulator need not wait for the sample's end
                self.request_steps()
        self._picker.advance(running)
        correction = self._correction
        if correction is None:
            return fast
        predicted = correction.predicted(fast, self._reader)
        seen = correction.corrected(fast, predicted, self._reader)
        if predicted is not None:
            self._outside.note(correction, predicted, running)
        if correction.layout.resynchronises and correction.predictor is not None:
            set_simulator_states(self.env, seen[NEXT_STATE], running)
        return seen
