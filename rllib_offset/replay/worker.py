"""Replays requests in the slow simulator: a request in, a result out.

Neither torch nor Ray is imported here: a process that replays starts as fast as its simulator.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import (
    MEASUREMENT,
    OBS,
    PREV_OBS,
    TIME,
    Columns,
    slice_columns,
)
from rllib_offset.errors import SlowSimulatorError
from rllib_offset.measurements import MeasurementReader
from rllib_offset.pair import AnyVectorEnv, EnvPair
from rllib_offset.replay.global_rng import preserved_global_rng, seed_of
from rllib_offset.replay.known import KnownLabels, LabelWriter
from rllib_offset.replay.requests import ReplayRequest, ReplayResult, nothing
from rllib_offset.replay.row_keeper import RowKeeper
from rllib_offset.replay.side_by_side import replay_side_by_side
from rllib_offset.replay.simulator import Blame, Row, Simulator, check_like, mark_valid
from rllib_offset.replay.simulator_lanes import SimulatorLanes
from rllib_offset.replay.termination import Termination, termination
from rllib_offset.simulator_state import can_set_simulator_states
from rllib_offset.store import StoreLocation
from rllib_offset.tables import to_table

__all__ = ["ReplayWorker", "replay"]

logger = logging.getLogger(__name__)

AnyEnv = gym.Env[Any, Any]


_FAILURES_BEFORE_REBUILD = 2  # in a row: the simulator itself may be broken by then


class ReplayWorker:
    """One process with a pair of simulators of its own.

    Args:
        pair: The two simulators.
        labels: Where finished steps are written, before anybody sees them; None keeps nothing.
        step_timeout_s: The process ends itself, and says where it was, if a step takes longer.
        num_envs: Lanes of :meth:`replay_side_by_side`; with one there is no such thing.
    """

    def __init__(
        self,
        pair: EnvPair,
        labels: StoreLocation | None = None,
        step_timeout_s: float | None = None,
        num_envs: int = 1,
    ) -> None:
        self.pair = pair
        self._num_envs = num_envs
        self._lanes: AnyVectorEnv | None = None
        self._step_timeout_s = step_timeout_s
        self._location = labels
        self._labels: KnownLabels | None = None
        self._slow: AnyEnv | None = None
        self._fast: AnyEnv | None = None
        self._num_failures = 0  # in a row

    def ready(self) -> bool:
        """Build the simulators, which may take its time."""
        self._build()
        if self._num_envs > 1:
            self._build_lanes()
        return True

    def _build(self) -> None:
        if self._slow is None:
            self._slow = self.pair.make_slow()
        if self._fast is None:
            self._fast = self.pair.make_fast()
        if self._location is not None and self._labels is None:
            self._labels = KnownLabels(self._location)
            to_table({"": np.zeros(1)})  # pyarrow's first takes 0.3 s: not while a result waits

    def _build_anew(self) -> None:
        """Build what was built before; a failure is the simulator's, and may pass."""
        with Blame("slow", Termination()):
            self._build()

    def _build_lanes(self) -> AnyVectorEnv:
        if self._lanes is None:
            self._lanes = self.pair.make_slow_lanes(self._num_envs)
        return self._lanes

    def replay(self, request: ReplayRequest, run: str = "", purchase: str = "") -> ReplayResult:
        """Answer one request; the answer is on disk when it is returned, or says that it is not.

        Args:
            request: What to replay.
            run: Who pays.
            purchase: Names this attempt in the store.
        """
        if self._num_failures >= _FAILURES_BEFORE_REBUILD:
            self.close()
            try:
                self._build_anew()
            except SlowSimulatorError as error:  # tried again with the next attempt
                return _failed(request, error)
            self._num_failures = 0
        self._build()
        assert self._slow is not None
        writer = None
        if self._labels is not None:
            writer = LabelWriter(self._labels, run=run, purchase=purchase)
        result = replay(request, self._slow, self._fast, writer, self._step_timeout_s)
        self._num_failures = 0 if result.error is None else self._num_failures + 1
        return result

    def replay_side_by_side(
        self, requests: Sequence[ReplayRequest], run: str, purchases: Sequence[str]
    ) -> list[ReplayResult]:
        """Answer requests together, in the slow simulator's native vector form.

        Args:
            requests: One for single steps, or at most ``num_envs`` for trajectories.
            run: Who pays.
            purchases: Name each attempt in the store.
        """
        try:
            self._build_anew()
            with Blame("slow", Termination()):
                lanes = self._build_lanes()
        except SlowSimulatorError as error:
            return [_failed(request, error) for request in requests]
        assert self._slow is not None
        if requests[0].kind == "steps" and not can_set_simulator_states(lanes):
            return [self.replay(requests[0], run, purchases[0])]
        writers: list[LabelWriter | None] = [None] * len(requests)
        if self._labels is not None:
            writers = [LabelWriter(self._labels, run=run, purchase=name) for name in purchases]
        if requests[0].kind == "steps":
            results = [replay(requests[0], self._slow, self._fast, writers[0], lanes=lanes)]
        else:
            results = replay_side_by_side(requests, lanes, writers)
        if any(result.error for result in results):  # they may be broken
            self._close([lanes])
            self._lanes = None
        return results

    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    def close(self) -> None:
        """Close both simulators; what they raise meanwhile changes nothing any more."""
        envs = [self._slow, self._fast, self._lanes]
        self._slow = self._fast = self._lanes = None
        self._close(envs)

    @staticmethod
    def _close(envs: list[Any]) -> None:
        for env in envs:
            if env is not None:
                try:
                    env.close()
                except Exception:
                    logger.warning("a simulator could not be closed", exc_info=True)


def replay(
    request: ReplayRequest,
    slow_env: AnyEnv,
    fast_env: AnyEnv | None = None,
    writer: LabelWriter | None = None,
    step_timeout_s: float | None = None,
    on_error: Callable[[SlowSimulatorError], Any] | None = None,
    lanes: AnyVectorEnv | None = None,
) -> ReplayResult:
    """Answer a request; equal requests get equal answers, whichever process gives them.

    A simulator that raises ends a trajectory, but only one row of ``"steps"``; what finished is
    kept and ``error`` says what happened.  The global random generators are seeded from the key of
    the request for the time of the replay, and are afterwards as they were.

    Args:
        request: What to replay.
        slow_env: The slow simulator.
        fast_env: The fast simulator, for the kinds that step it too.
        writer: Writes rows to disk while the replay goes on.
        step_timeout_s: End this process if a slow step takes longer; None waits for ever.
        on_error: Called with what a simulator raised, its own error as the cause.
        lanes: The slow simulator's native vector form, whose states can be set; only for
            ``"steps"``, of which as many are taken at once as there are lanes.

    Raises:
        ValueError: If the pair does not offer what this kind of replay needs.
    """
    with termination() as sigterm, nullcontext() if writer is None else writer.attempting(request):
        slow = Simulator("slow", slow_env, sigterm, step_timeout_s, holds=True)
        fast = None if fast_env is None else Simulator("fast", fast_env, sigterm)
        together = None if lanes is None else SimulatorLanes(lanes, sigterm)
        is_explained = fast is not None and MeasurementReader.of(fast.env).outcome is not None
        log = _Log(request, together or slow, sigterm, writer, on_error, is_explained=is_explained)
        try:
            with preserved_global_rng(seed_of(request)):
                if together is None:
                    _KINDS[request.kind](request, slow, fast, log)
                else:
                    _replay_steps_together(request, together, fast, log)
        except BaseException:  # a signal: no simulator's error comes so far
            log.leave()
            raise
        sigterm.hold()
        return log.close()


def _failed(request: ReplayRequest, error: SlowSimulatorError) -> ReplayResult:
    return nothing(request, f"{error} ({request.whence()}; replay {request.key})")


class _Log(RowKeeper):
    """Rows that finished, and why the others did not."""

    def __init__(
        self,
        request: ReplayRequest,
        slow: Simulator | SimulatorLanes,
        sigterm: Termination,
        writer: LabelWriter | None,
        on_error: Callable[[SlowSimulatorError], Any] | None,
        *,
        is_explained: bool,
    ) -> None:
        super().__init__(writer)
        self._is_explained = is_explained  # what is measured, by the fast simulator's `outcome`
        self.request = request
        self.index: list[int] = []
        self.slow: list[Row] = []
        self.fast: list[Row] = []
        self.error: str | None = None
        self._simulator, self._sigterm = slow, sigterm
        self._on_error = on_error

    def add(self, i: int, slow: Row, fast: Row | None, *, is_end: bool = True) -> None:
        """Take in a finished row; ``is_end`` says that the replay needs no row after it.

        A SIGTERM that waits for the row comes when it is noted.
        """
        self._take(i, slow, fast)
        self._keep(is_end)

    def add_together(self, rows: Iterable[tuple[int, Row, Row | None]]) -> None:
        """Take in rows, ``(number, slow, fast)``, that finished in the same moment."""
        for i, slow, fast in rows:
            self._take(i, slow, fast)
        self._keep(is_end=True)

    def _take(self, i: int, slow: Row, fast: Row | None) -> None:
        if self.slow:
            with self._simulator.blame:
                check_like(slow, self.slow[0])
        self.index.append(i)
        self.slow.append(slow)
        if fast is not None:
            self.fast.append(fast)

    def _keep(self, is_end: bool) -> None:
        """See that the rows survive: note first of all, write when no time limit runs."""
        self.note(is_end=is_end)
        self._simulator.stop_clock()
        self.write()
        self._sigterm.release()

    def _so_far(self) -> tuple[int, float]:
        return len(self.index), self._simulator.time_s

    def _result(self, first: int) -> ReplayResult:
        index = np.array(self.index[first:], dtype=np.int64)
        slow, fast = self.slow[first:], self.fast[first:]
        is_measured = MEASUREMENT in self.request.fast or (
            self._is_explained and any(MEASUREMENT in row for row in (*slow, *fast))
        )
        return ReplayResult(
            request=self.request,
            slow=_columns(slow, is_measured) if len(index) else None,
            fast=(
                _columns(fast, is_measured)
                if len(index) and self.fast
                else slice_columns(self.request.fast, index)
            ),
            sim_time_s=self._simulator.time_s,
            num_steps=self._simulator.num_steps,
            error=self.error,
            index=index,
        )

    def failures(self, row: int | None = None) -> "_Failures":
        """Note what a simulator raises, with what reproduces it; anything else passes through."""
        return _Failures(self, row)

    def leave_step(self, row: int | None, error: BaseException | None) -> bool:
        """End what :meth:`failures` began; returns whether the error is a simulator's."""
        if error is None:  # the row that was added last has seen to the rest
            return False
        try:
            if not isinstance(error, SlowSimulatorError):
                return False
            self.error = f"{error} ({self._whence(row)}; replay {self.request.key})"
            if self._on_error is not None:
                self._on_error(error)
            return True
        finally:
            self._simulator.stop_clock()
            self._sigterm.release()

    def _whence(self, row: int | None) -> str:
        whence = self.request.whence(row)
        return whence if row is not None else f"{whence}, step {len(self.index)}"


class _Failures:
    """See :meth:`_Log.failures`.  A class, as a generator costs more than a fast step."""

    def __init__(self, log: _Log, row: int | None) -> None:
        self._log, self._row = log, row

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        return self._log.leave_step(self._row, error)


def _replay_trajectory(
    request: ReplayRequest, slow: Simulator, fast: Simulator | None, log: _Log
) -> None:
    with log.failures():
        slow.reset(request.seed)
        for i, action in enumerate(request.actions):
            row, is_over = slow.step(action)
            log.add(i, row, None, is_end=is_over or i + 1 == len(request))
            if is_over:
                break


def _replay_steps(
    request: ReplayRequest, slow: Simulator, fast: Simulator | None, log: _Log
) -> None:
    _need(slow.can_set, "single steps need a slow simulator with `set_simulator_state(state)`")
    stepped = _fast_to_step(request, fast)
    assert request.states is not None
    for i, (state, action) in enumerate(zip(request.states, request.actions, strict=True)):
        with log.failures(row=i):
            slow_row = slow.step_from(state, action)
            fast_row = None if stepped is None else stepped.step_from(state, action)
            log.add(i, slow_row, fast_row)


def _replay_steps_together(
    request: ReplayRequest, slow: SimulatorLanes, fast: Simulator | None, log: _Log
) -> None:
    """Take as many steps at once as there are lanes; the fast ones first, which cost nothing."""
    stepped = _fast_to_step(request, fast)
    assert request.states is not None
    fast_rows: dict[int, Row | None] = {}
    for i, (state, action) in enumerate(zip(request.states, request.actions, strict=True)):
        with log.failures(row=i):
            fast_rows[i] = None if stepped is None else stepped.step_from(state, action)
    for first in range(0, len(fast_rows), slow.num_envs):
        index = np.array(list(fast_rows)[first : first + slow.num_envs])
        with log.failures():
            slow_rows = slow.rows_from(request.states[index], request.actions[index])
            log.add_together(
                (i, row, fast_rows[i]) for i, row in zip(index.tolist(), slow_rows, strict=True)
            )


def _fast_to_step(request: ReplayRequest, fast: Simulator | None) -> Simulator | None:
    """Return the fast simulator if the request does not bring its columns."""
    if request.fast:
        return None
    _need(
        fast is not None and fast.can_set,
        "steps without fast columns need a fast simulator with `set_simulator_state(state)`",
    )
    return fast


def _replay_resync(
    request: ReplayRequest, slow: Simulator, fast: Simulator | None, log: _Log
) -> None:
    _need(slow.can_get, "a resync needs a slow simulator with `get_simulator_state()`")
    if fast is None or not fast.can_set:
        raise ValueError("a resync needs a fast simulator with `set_simulator_state(state)`")
    with log.failures():
        prev_obs = slow.reset(request.seed)
        for i, action in enumerate(request.actions):
            fast_row = fast.step_from(slow.state(), action)
            slow_row, is_over = slow.step(action)
            fast_row |= {PREV_OBS: prev_obs, TIME: np.float32(i + 1)}
            log.add(i, slow_row, fast_row, is_end=is_over or i + 1 == len(request))
            prev_obs = slow_row[OBS]
            if is_over:
                break


_KINDS: dict[str, Callable[[ReplayRequest, Simulator, Simulator | None, _Log], None]] = {
    "trajectory": _replay_trajectory,
    "steps": _replay_steps,
    "resync": _replay_resync,
}


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)


def _columns(rows: list[Row], is_measured: bool) -> Columns:
    """Stack rows; one without the measurement that others have is invalid."""
    measured = next((row[MEASUREMENT] for row in rows if MEASUREMENT in row), None)
    if measured is not None:
        blank = np.full_like(measured, np.nan)
        rows = [{MEASUREMENT: blank} | row for row in rows]
    columns = {name: _stacked([row[name] for row in rows]) for name in rows[0]}
    return mark_valid(columns, is_measured=is_measured)


def _stacked(values: list[Any]) -> NDArray[Any]:
    """Return ``np.stack(values)``, which takes several times as long for many small arrays."""
    if not np.ndim(values[0]):
        return np.array(values)
    return np.concatenate(values).reshape(len(values), *values[0].shape)
