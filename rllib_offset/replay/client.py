"""The driver's side of slow replay: start the coordinator, hand in requests, collect labels."""

import logging
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from rllib_offset.pair import EnvPair
from rllib_offset.replay.coordinator import LOOK_AGAIN_S, ReplayCoordinator
from rllib_offset.replay.known import KnownLabels
from rllib_offset.replay.options import ReplayOptions, check_lanes
from rllib_offset.replay.requests import Key, ReplayRequest, ReplayResult, missing_rows
from rllib_offset.replay.retries import FailureWatch, Retries
from rllib_offset.replay.rows import identities
from rllib_offset.replay.worker import ReplayWorker

__all__ = ["SlowReplay"]

logger = logging.getLogger(__name__)

_MAX_RESTARTS = 5  # of the coordinator without a single answer in between


class SlowReplay:
    """Slow replays by Ray actors or, with no workers, in this process (Algorithm 1 of the paper).

    A coordinator that dies is started again, by Ray or here, and goes on with what was asked for;
    :attr:`coordinator` may then be another actor than before.

    Args:
        pair: The two simulators.
        num_workers: Replay actors; 0 replays here, when :meth:`gather` is called.  A simulator that
            hangs, or ends its process, then takes this process with it.
        options: How to replay; see :class:`~rllib_offset.replay.options.ReplayOptions`.
        **fields: Fields of the options, one by one.

    Raises:
        ValueError: If an option is out of range, or the store cannot be written.
    """

    def __init__(
        self,
        pair: EnvPair,
        *,
        num_workers: int,
        options: ReplayOptions | None = None,
        **fields: Any,
    ) -> None:
        options = replace(options or ReplayOptions(), **fields)
        self._labels: KnownLabels | None = None
        if options.labels is not None:
            self._labels = KnownLabels(options.labels)
            location = replace(options.labels, store_id=self._labels.store.store_id)
            options = replace(options, labels=location)
        self.num_workers = num_workers
        self.run = options.run
        self._pair, self._options = pair, options
        self._worker: ReplayWorker | None = None  # of this process
        self._watch = FailureWatch(options.max_failure_rate)
        self._num_lost = self._num_retries = self._num_reused = 0  # in this process
        self._taken: list[ReplayRequest] = []  # to be replayed here
        self._done: list[ReplayResult] = []  # replayed here or arrived, and not handed out yet
        self._asked: tuple[int | None, ray.ObjectRef[list[Any]]] | None = None  # and not heard yet
        self._after: list[ray.ObjectRef[Any]] = []  # answers that it waits for
        self._received: list[Key] = []  # and not confirmed yet
        self._unstored: list[ReplayResult] = []
        self._num_restarts = 0  # since the last answer
        if options.num_envs_per_worker > 1:
            check_lanes(options.num_envs_per_worker, num_workers)
            self._worker_here().ready()  # says at once if there is no vector form
        self.coordinator: ActorHandle = self._start_coordinator(recovers=False)

    def submit(self, requests: list[ReplayRequest]) -> None:
        """Queue requests; one that is known already is not queued again."""
        self._call("submit", requests)

    def ask(self, up_to: int, after: Sequence[ray.ObjectRef[Any]] = ()) -> None:
        """Ask already for what :meth:`gather` will be asked for, which then needs no round trip.

        Args:
            up_to: As in :meth:`gather`.
            after: Answers that must be there before, such as those to ``submit``.
        """
        self._after += after
        if self._asked is not None:  # by an iteration that was cut off and is repeated
            self._asked = None, self._asked[1]
            return
        method, args = self._question(up_to)
        self._asked = up_to, getattr(self.coordinator, method).remote(*args, *after)

    def gather(self, up_to: int | None) -> list[ReplayResult]:
        """Return finished replays in key order; each is on disk by then, if there is a store.

        Args:
            up_to: Wait for every request of versions up to this one and return exactly those;
                ``None`` waits for nothing and returns what has finished.

        Raises:
            SlowSimulatorError: If no worker can start, or too many replays fail.
        """
        if self._hear_answer() != up_to or up_to is None:
            method, args = self._question(up_to)
            self._receive(self._call(method, *args))
        self._replay_taken()
        results, self._done = sorted(self._done, key=lambda result: result.request.key), []
        return self._all_stored(results)

    def outstanding(self) -> list[ReplayRequest]:
        """Return the requests that were queued and not gathered yet.

        Waits for what was asked for early: nobody could say where that is meanwhile.
        """
        self._hear_answer()
        requests: list[ReplayRequest] = self._call("outstanding", self._received)
        return [*(result.request for result in self._done), *self._taken, *requests]

    def restore(self, run: str, outstanding: list[ReplayRequest]) -> None:
        """Go on from a checkpoint: on the account of its run, with its requests and no others.

        What that run bought after the checkpoint then counts as bought, not as reused.  What has
        finished here since is stored, if labels are kept, and forgotten.
        """
        if self.num_workers:
            self.gather(None)
        else:
            self._hear_answer()
            self._all_stored(self._done)
        self._done, self._taken, self._received = [], [], []
        self.run = run
        self._call("restart", run, outstanding)

    def known_labels(self, *, except_run: str | None = None) -> list[ReplayResult]:
        """Return what the store holds, without that which ``except_run`` bought; free."""
        return [] if self._labels is None else self._labels.load_all(except_run=except_run)

    def stats(self) -> dict[str, Any]:
        """Return the counters; busy seconds and utilization are those since the last call."""
        stats: dict[str, Any] = self._call("stats")
        stats["num_lost"] += self._num_lost
        stats["num_retries"] += self._num_retries
        stats["num_reused"] += self._num_reused
        stats["num_unstored"] += self._num_unstored
        return stats

    def shutdown(self) -> None:
        """Stop workers and coordinator, and close the environments of this process.

        What has finished is stored, also where nobody has gathered it.
        """
        with suppress(RayError):  # dead already, or too busy to answer: killed next
            ray.get(self.coordinator.shutdown.remote(), timeout=5)
        ray.kill(self.coordinator)
        self._done = self._all_stored(self._done)
        if self._unstored:
            logger.error(
                "%d slow results could not be written to %s; they are in the checkpoint only",
                self._num_unstored,
                self._labels.store.folder if self._labels else "",
            )
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    # --- the coordinator ---

    def _start_coordinator(self, *, recovers: bool) -> ActorHandle:
        # without a store there is nothing to come back to
        restarts = {"max_restarts": -1, "max_task_retries": -1} if self._labels else {}
        return (
            ray.remote(ReplayCoordinator)
            .options(num_cpus=0, **restarts)
            .remote(self._pair, self.num_workers, options=self._options, recovers=recovers)
        )

    def _call(self, method: str, *args: Any) -> Any:
        """Call the coordinator; start another if it is dead, which then goes on where it was."""
        while True:
            try:
                answer = _result_of(getattr(self.coordinator, method).remote(*args))
            except ActorUnavailableError:
                continue  # Ray restarts it just now
            except RayActorError as death:
                self._num_restarts += 1
                if self._labels is None or self._num_restarts > _MAX_RESTARTS:
                    raise
                logger.warning("the replay coordinator died and is started again: %s", death)
                self.coordinator = self._start_coordinator(recovers=True)
                continue
            self._num_restarts = 0
            return answer

    def _question(self, up_to: int | None) -> tuple[str, tuple[Any, ...]]:
        """Return what to call for answers, or for what is to be replayed here."""
        return "gather" if self.num_workers else "take", (up_to, self._received)

    def _hear_answer(self) -> int | None:
        """Wait for what was asked for already; returns up to where that went, if it arrived."""
        if self._asked is None:
            return None
        (up_to, answer), self._asked = self._asked, None
        after, self._after = self._after, []
        try:
            self._receive(_result_of(answer))
        except RayActorError:
            up_to = None  # who asks again starts another coordinator
        if up_to is None:
            ray.get(after)
        return up_to

    def _receive(self, answer: list[Any]) -> None:
        self._num_restarts = 0
        if self.num_workers:
            self._received = [result.request.key for result in answer]
            self._done += answer
        else:
            self._received = [request.key for request in answer]
            self._taken += answer

    # --- replays in this process ---

    def _replay_taken(self) -> None:
        while self._taken:
            with closing(self._replay_here(self._together(self._taken))) as results:
                for result in results:
                    self._taken.remove(result.request)
                    self._done.append(result)
                    self._watch.observe(result)
                    failure = self._watch.failure()
                    if failure is not None:
                        raise failure

    def _together(self, requests: list[ReplayRequest]) -> list[ReplayRequest]:
        """Return the first requests, as many as can be replayed at once: no trajectory twice."""
        if self._options.num_envs_per_worker == 1:
            return requests[:1]
        together: dict[str, ReplayRequest] = {}
        for request in requests[: self._options.num_envs_per_worker]:
            name = identities(request)[0] if request.kind == "trajectory" else ""
            if not name or name in together or not _are_alike(request, requests[0]):
                break
            together[name] = request
        return list(together.values()) or requests[:1]

    def _replay_here(self, requests: list[ReplayRequest]) -> Generator[ReplayResult]:
        """Look up, replay what is not known, together at first, and alone what failed so."""
        options = self._options
        with ExitStack() as claims:
            if options.is_shared:  # in one order, or two runs could wait for each other
                for claim in sorted(map(options.claim, requests)):
                    claims.enter_context(self._lease(claim, 1))
            for request in requests:
                self._await_others(request)
            purchases = [
                Retries(request, options.max_retries, self._lookup(request)) for request in requests
            ]
            self._num_reused += sum(retries.result.num_reused for retries in purchases)
            self._attempt_together([retries for retries in purchases if not retries.is_complete])
            for retries in sorted(purchases, key=lambda retries: not retries.is_complete):
                for rows in retries.asks():
                    request = retries.result.request.rows(rows)
                    with self._licence() as worker:
                        part = worker.replay(request, self.run, uuid.uuid4().hex)
                    retries.add(part, rows)
                yield self._settled(retries)

    def _attempt_together(self, purchases: list[Retries]) -> None:
        """Replay side by side what can be; not counted as an attempt, as any lane may fail it."""
        if self._options.num_envs_per_worker == 1:
            return
        rows = [missing_rows(retries.result) for retries in purchases]
        several_steps = len(purchases) == 1 and purchases[0].result.request.kind == "steps"
        if (len(rows[0]) if several_steps else len(purchases)) < 2:
            return
        asked = [r.result.request.rows(part) for r, part in zip(purchases, rows, strict=True)]
        with self._licence() as worker:
            parts = worker.replay_side_by_side(asked, self.run, [uuid.uuid4().hex for _ in asked])
        for retries, part, index in zip(purchases, parts, rows, strict=True):
            retries.add(part, index)

    @contextmanager
    def _licence(self) -> Iterator[ReplayWorker]:
        """Hold one of the simulator's licences, if they are limited."""
        options = self._options
        with self._lease(options.licence, options.max_concurrent_replays):
            yield self._worker_here()

    def _worker_here(self) -> ReplayWorker:
        if self._worker is None:
            options = self._options
            self._worker = ReplayWorker(
                self._pair, options.labels, num_envs=options.num_envs_per_worker
            )
        return self._worker

    def _settled(self, retries: Retries) -> ReplayResult:
        """Return the answer, its failure counted and noted on disk."""
        result = retries.result
        self._num_retries += retries.num_retries
        self._num_lost += result.error is not None
        if result.error is not None and self._labels is not None:
            result = self._labels.with_failure_noted(result, self.run)
        return result

    def _await_others(self, request: ReplayRequest) -> None:
        while self._labels is not None and self._labels.is_being_bought(request):
            time.sleep(LOOK_AGAIN_S)

    def _lookup(self, request: ReplayRequest) -> ReplayResult | None:
        return None if self._labels is None else self._labels.lookup_latest(request, self.run)

    @contextmanager
    def _lease(self, pool: str, limit: int | None) -> Iterator[None]:
        """Hold a lease, which the coordinator keeps alive while the simulator is busy."""
        if limit is None:
            yield
            return
        lease = self._call("acquire", pool, limit)
        try:
            yield
        finally:
            self._call("release", lease)

    # --- the store ---

    @property
    def _num_unstored(self) -> int:
        waiting = (part for result in self._done for part in result.unstored)
        return sum(len(part.index) for part in (*self._unstored, *waiting))

    def _all_stored(self, results: list[ReplayResult]) -> list[ReplayResult]:
        """Write what workers could not write: on another node, or while the disk was full."""
        self._unstored += [part for result in results for part in result.unstored]
        if self._unstored and self._labels is not None:
            late = replace(self._unstored[0], unstored=tuple(self._unstored))
            self._unstored = list(self._labels.append_late(late, run=self.run).unstored)
        return [replace(result, unstored=()) for result in results]


def _result_of(reference: Any) -> Any:
    """Wait for a result, or raise the actor's own error: Ray's has a traceback as its message."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None


def _are_alike(one: ReplayRequest, other: ReplayRequest) -> bool:
    """Whether the actions of two requests fit into one array as they are."""
    a, b = one.actions, other.actions
    return a.dtype == b.dtype and a.shape[1:] == b.shape[1:]
