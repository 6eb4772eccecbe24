import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rllib_offset.columns import MEASUREMENT, OBS, REWARD, TIME, VALID
from rllib_offset.fingerprint import pair_description, pair_fingerprint
from rllib_offset.ledger import Ledger
from rllib_offset.pair import EnvPair
from rllib_offset.paired_data import PairedBuffer
from rllib_offset.replay.journal import RequestJournal
from rllib_offset.replay.known import KnownLabels, LabelWriter
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.retries import Retries
from rllib_offset.replay.rows import identities
from rllib_offset.replay.worker import ReplayWorker, replay
from rllib_offset.store import LabelStore, StoreLocation
from rllib_offset.store_report import export_labels, pairs_in, verify
from tests import envs
from tests.faults.disks import FullDisk


def trajectory(*key, length=5, kind="trajectory", seed=4):
    actions = np.random.default_rng(key).uniform(-1, 1, (length, 2)).astype(np.float32)
    fast = {TIME: np.arange(length)} if kind == "trajectory" else {}
    return ReplayRequest(key, kind, actions, seed=seed, fast=fast)


def steps(*key, numbers):
    """Single steps, equal where their numbers are."""
    numbers = np.asarray(numbers, float)
    states = np.stack([numbers / 7, numbers], axis=1)
    actions = np.stack([np.sin(numbers), np.cos(numbers)], axis=1).astype(np.float32)
    return ReplayRequest(key, "steps", actions, states=states, fast={TIME: np.arange(len(numbers))})


def bought(labels, request, *, run="a", purchase="p", env=None, fast_env=None):
    writer = LabelWriter(labels, run=run, purchase=purchase)
    return replay(request, env or envs.StatefulEnv(), fast_env or envs.StatefulEnv(), writer)


def assert_same_answer(found, result):
    for a, b in ((found.slow, result.slow), (found.fast, result.fast)):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
            assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(found.index, result.index)


REQUESTS = [
    pytest.param(trajectory(1, 0), id="trajectory"),
    pytest.param(trajectory(1, 0, kind="resync"), id="resync"),
    pytest.param(steps(1, 0, numbers=[3, 1, 2]), id="steps"),
]


# --- what was bought once is never bought again ---


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_was_bought_is_found_by_another_process_bit_for_bit(location, request_):
    result = bought(KnownLabels(location), request_)
    other = KnownLabels(location)
    other.store.refresh()
    found = other.lookup(replace(request_, key=(9, 9)), run="b")
    assert_same_answer(found, result)
    assert (found.error, found.num_steps, found.sim_time_s) == (None, 0, 0.0)
    assert found.num_reused == len(result.index)
    assert other.lookup(replace(request_, actions=request_.actions + 1)) is None


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_this_very_request_bought_counts_as_bought_and_not_as_reused(location, request_):
    labels = KnownLabels(location)
    result = bought(labels, request_, run="a")
    labels.store.refresh()
    found = labels.lookup(request_, run="a")
    assert (found.num_steps, found.num_reused) == (result.num_steps, 0)
    assert found.sim_time_s == pytest.approx(result.sim_time_s)


def test_of_single_steps_only_those_that_are_unknown_are_asked_for(location):
    labels = KnownLabels(location)
    bought(labels, steps(1, 0, numbers=[1, 2]))
    labels.store.refresh()
    request = steps(2, 0, numbers=[5, 2, 7, 1])
    retries = Retries(request, 2, labels.lookup(request, run="b"))
    for rows in retries.asks():
        assert rows.tolist() == [0, 2]
        retries.add(replay(request.rows(rows), envs.StatefulEnv()), rows)
    assert_same_answer(retries.result, replay(request, envs.StatefulEnv()))
    assert (retries.result.num_steps, retries.result.num_reused) == (2, 2)
    assert retries.num_retries == 0


def test_a_trajectory_that_ended_early_is_complete_and_one_that_broke_off_is_not(
    location, tmp_path
):
    labels = KnownLabels(location)
    bought(labels, trajectory(1, 0), env=envs.StatefulEnv({"length": 3}), purchase="early")
    (tmp_path / "flag").touch()
    faulty = envs.FaultyEnv({"flag": str(tmp_path / "flag"), "at_step": 2, "how": "raise"})
    bought(labels, trajectory(1, 1), env=faulty, purchase="broken", run="a")
    labels.store.refresh()
    assert len(labels.lookup(trajectory(1, 0), run="b").index) == 3
    assert labels.lookup(trajectory(1, 1), run="b") is None
    interrupted = labels.lookup(trajectory(1, 1), run="a")
    assert (interrupted.num_steps, interrupted.error) == (2, "it was interrupted")
    assert not Retries(trajectory(1, 1), 2, interrupted).is_complete
    bought(labels, trajectory(1, 1), purchase="whole", run="a")
    labels.store.refresh()
    whole = labels.lookup(trajectory(1, 1), run="a")
    assert (whole.num_steps, whole.num_wasted, whole.error) == (7, 2, None)
    report = verify(labels.store)
    assert (report.num_rows, report.num_unfinished, report.num_bought_twice) == (10, 2, 0)


@pytest.mark.parametrize("request_", REQUESTS)
def test_rows_of_a_slow_simulator_are_written_one_by_one(location, request_):
    labels = KnownLabels(location)
    writer = LabelWriter(labels, run="a", purchase="p")
    writer.is_due = lambda unwritten_s: True
    result = replay(request_, envs.StatefulEnv(), envs.StatefulEnv(), writer)
    assert len(labels.store.segment_names()) == len(request_)
    labels.store.refresh()
    assert_same_answer(labels.lookup(request_), result)
    assert_same_answer(labels.bought(request_, "p"), result)
    assert labels.bought(request_, "q").slow is None


def test_writing_costs_a_twentieth_of_the_simulators_time(location):
    writer = LabelWriter(KnownLabels(location), run="a", purchase="p")
    assert not writer.is_due(0.05)
    assert writer.is_due(0.2)


def test_a_row_without_its_measurement_is_stored_as_one(location):
    labels = KnownLabels(location)
    request = steps(1, 0, numbers=[0, 40])
    env = envs.OutcomeEnv({"invalid_above": 4.0, "is_silent": True})
    for i in (0, 1):
        bought(labels, request.rows(np.array([i])), env=env, purchase=str(i))
    labels.store.refresh()
    found = labels.lookup(request, run="b")
    assert found.slow[VALID].tolist() == [True, False]
    assert np.isnan(found.slow[MEASUREMENT][:, 0]).tolist() == [False, True]
    assert verify(labels.store).num_invalid == 1


def test_everything_comes_back_for_a_warm_start_without_the_runs_own(location):
    labels = KnownLabels(location)
    results = [
        bought(labels, request.values[0], purchase=str(i), run="ab"[i > 1])
        for i, request in enumerate(REQUESTS)
    ]
    bought(labels, REQUESTS[2].values[0], purchase="again", run="c")
    everything = sorted(labels.load_all(), key=lambda r: r.purchase)
    for found, result in zip(everything, results, strict=True):
        assert_same_answer(found, result)
        np.testing.assert_array_equal(found.request.actions, result.request.actions)
        assert (found.num_steps, found.num_wasted, found.error) == (0, 0, None)
    assert len(labels.load_all(except_run="a")) == 1


def test_a_worker_writes_before_it_answers(location):
    pair = EnvPair(envs.StatefulEnv, envs.StatefulEnv)
    worker = ReplayWorker(pair, location)
    result = worker.replay(trajectory(1, 0), "a", "p")
    worker.close()
    assert (result.purchase, result.unstored) == ("p", ())
    labels = KnownLabels(location)
    labels.store.refresh()
    assert_same_answer(labels.lookup(trajectory(1, 0)), result)


def test_a_folder_of_the_same_name_on_another_machine_is_not_written(location):
    KnownLabels(location)
    elsewhere = KnownLabels(replace(location, store_id="of another machine"))
    result = bought(elsewhere, trajectory(1, 0))
    assert elsewhere.store.segment_names() == []
    here = KnownLabels(location)
    assert elsewhere.append_late(result, run="a").unstored == result.unstored
    assert here.append_late(result, run="a").unstored == ()
    here.store.refresh()
    assert_same_answer(here.lookup(trajectory(1, 0)), result)


# --- segments ---


def test_labels_of_two_pairs_never_mix(location):
    bought(KnownLabels(location), trajectory(1, 0))
    other = KnownLabels(replace(location, fingerprint="beef"))
    other.store.refresh()
    assert other.lookup(trajectory(1, 0)) is None
    assert set(pairs_in(location.path)) == {"0f1e", "beef"}


def test_a_segment_of_another_pair_is_left_out_and_named(location, caplog):
    source = KnownLabels(location)
    bought(source, trajectory(1, 0))
    other = LabelStore(replace(location, fingerprint="beef"))
    (name,) = source.store.segment_names()
    os.rename(f"{source.store.folder}/{name}", f"{other.folder}/{name}")
    other.refresh()
    assert "fingerprint is 0f1e, not beef" in other.damaged[name]
    assert name in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:40] + b"X" + data[41:], id="one-byte"),
        pytest.param(lambda data: b"not Parquet at all", id="foreign"),
    ],
)
def test_a_damaged_segment_is_left_out_and_named_and_the_rest_is_used(location, damage, caplog):
    labels = KnownLabels(location)
    for i in range(3):
        bought(labels, trajectory(1, i), purchase=str(i))
    spoilt = labels.store.segment_names()[1]
    path = f"{labels.store.folder}/{spoilt}"
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(damage(data))
    fresh = KnownLabels(location)
    with caplog.at_level(logging.WARNING):
        fresh.store.refresh()
        fresh.store.refresh()
    assert caplog.text.count(spoilt) == 1
    assert sum(fresh.lookup(trajectory(1, i)) is not None for i in range(3)) == 2
    report = verify(fresh.store)
    assert list(report.damaged) == [spoilt]
    assert (report.num_segments, report.num_rows, report.is_sound) == (2, 10, False)
    assert fresh.store.compact(min_segments=2) == 2
    assert os.path.exists(path)


def test_a_segment_that_is_spoilt_while_it_is_in_use_is_left_out(location):
    labels = KnownLabels(location)
    bought(labels, trajectory(1, 0))
    labels.store.refresh()
    labels.store._reader.clear()
    (name,) = labels.store.segment_names()
    with open(f"{labels.store.folder}/{name}", "ab") as file:
        file.write(b"more")
    assert labels.lookup(trajectory(1, 0)) is None
    assert name in labels.store.damaged


def test_small_segments_are_merged_and_everyone_still_finds_everything(location):
    labels, reader = KnownLabels(location), KnownLabels(location)
    requests = [trajectory(1, i) for i in range(5)] + [steps(2, 0, numbers=[1, 2])]
    results = [bought(labels, request, purchase=str(i)) for i, request in enumerate(requests)]
    reader.store.refresh()
    reader.store._reader.clear()
    before = verify(LabelStore(location))
    assert labels.store.compact(min_segments=2) == 5
    assert len(labels.store.segment_names()) == 2
    for known in (labels, reader):
        for request, result in zip(requests, results, strict=True):
            assert_same_answer(known.lookup(request, run="b"), result)
    after = verify(labels.store)
    assert (after.num_rows, after.runs) == (before.num_rows, before.runs) == (27, {"a": 27})
    assert labels.store.compact(min_segments=2) == 0


def test_a_merge_takes_no_more_at_once_than_a_segment_that_is_not_small(location, monkeypatch):
    monkeypatch.setattr("rllib_offset.store._ROWS_OF_A_SMALL_SEGMENT", 10)
    labels = KnownLabels(location)
    requests = [steps(1, i, numbers=np.arange(4) + 10 * i) for i in range(8)]
    results = [bought(labels, request, purchase=str(i)) for i, request in enumerate(requests)]
    assert labels.store.compact(min_segments=4) == 6  # and two are left, which are too few
    rows = [len(columns["identity"]) for columns in labels.store.segments()]
    assert sorted(rows) == [4, 4, 12, 12]
    for request, result in zip(requests, results, strict=True):
        assert_same_answer(labels.lookup(request, run="b"), result)


def test_what_another_process_merged_leaves_nothing_behind(location):
    labels, finding, merging = (KnownLabels(location) for _ in range(3))
    requests = [steps(1, i, numbers=[i, i + 10]) for i in range(5)]
    for i, request in enumerate(requests):
        bought(labels, request, purchase=str(i))
    for other in (finding, merging):
        other.store.refresh()
    labels.store.compact(min_segments=2)
    for request in requests:
        assert finding.lookup(request, run="b").num_reused == 2
    assert merging.store.compact(min_segments=2) == 0
    for other in (finding, merging):
        assert other.store._index.segments() == labels.store.segment_names()
        assert sum(len(other.store._index.places(i)) for r in requests for i in identities(r)) == 10


def test_a_merge_that_was_cut_short_counts_nothing_twice(location):
    labels = KnownLabels(location)
    for i in range(3):
        bought(labels, steps(1, i, numbers=[i, i + 10]), purchase=str(i))
    folder = Path(labels.store.folder)
    sources = {path: path.read_bytes() for path in folder.glob("*.parquet")}
    labels.store.compact(min_segments=2)
    for path, data in sources.items():  # as if it had been killed before it deleted them
        path.write_bytes(data)
    fresh = KnownLabels(location)
    fresh.store.refresh()
    report = verify(fresh.store)
    assert (report.num_rows, report.num_bought_twice) == (6, 0)
    found = fresh.lookup(steps(5, 0, numbers=[0, 11, 99]), run="b")
    assert found.index.tolist() == [0, 1]
    assert sum(len(result.index) for result in fresh.load_all()) == 6
    assert fresh.store.compact(min_segments=2) > 0
    assert verify(fresh.store).num_rows == 6


def test_writers_and_mergers_at_once_lose_nothing(location):
    def write(writer):
        labels = KnownLabels(location)
        for i in range(12):
            bought(labels, steps(writer, i, numbers=[100 * writer + i]), purchase=f"{writer}-{i}")
            if i % 4 == 3:
                labels.store.compact(min_segments=3)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = KnownLabels(location)
    labels.store.refresh()
    numbers = [100 * writer + i for writer in range(4) for i in range(12)]
    assert len(labels.lookup(steps(9, 9, numbers=numbers), run="b").index) == 48
    report = verify(labels.store)
    assert (report.num_rows, report.num_bought_twice, report.damaged) == (48, 0, {})


def test_labels_bought_twice_are_counted(location):
    labels = KnownLabels(location)
    for purchase in "pq":
        bought(labels, trajectory(1, 0), purchase=purchase)
        bought(labels, steps(1, 1, numbers=[1, 2]), purchase="s" + purchase)
    assert verify(labels.store).num_bought_twice == 7


def test_what_a_writer_left_is_named_and_swept_after_a_day(location):
    store = LabelStore(location)
    part = f"{store.folder}/half.parquet.part"
    with open(part, "wb") as file:
        file.write(b"half")
    assert verify(LabelStore(location)).abandoned == ["half.parquet.part"]
    os.utime(part, (0, 0))
    LabelStore(location)
    assert not os.path.exists(part)


# --- places where nothing can be written ---


def test_a_folder_that_cannot_be_written_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"folder that can be written, got '/proc/labels' \(") as e:
        LabelStore(StoreLocation("/proc/labels", "0f"))
    assert "\n" not in str(e.value)


def in_memory():
    """A file system that is no folder of this machine."""
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem()
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(memory))


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(lambda path: StoreLocation(f"file://{path}", "0f"), id="uri"),
        pytest.param(
            lambda path: StoreLocation(
                "labels", "0f", filesystem=pa.fs.SubTreeFileSystem(path, pa.fs.LocalFileSystem())
            ),
            id="below-a-folder",
        ),
        pytest.param(
            lambda path: StoreLocation(f"labels-{path[-1]}", "0f", filesystem=in_memory()),
            id="in-memory",
        ),
    ],
)
def test_any_file_system_that_pyarrow_reaches_keeps_labels(tmp_path, where):
    location = where(str(tmp_path))
    results = []
    for number in range(3):
        request = steps(number, numbers=[number])
        results.append(bought(KnownLabels(location), request, purchase=str(number)))
    labels = KnownLabels(location)
    labels.store.refresh()
    assert labels.store.compact(min_segments=2) == 3
    for number, result in enumerate(results):
        assert_same_answer(labels.lookup(steps(9, numbers=[number])), result)
    journal = RequestJournal(labels, "x")
    journal.note([trajectory(1, 0)])
    assert [request.key for request in journal.recover()] == [(1, 0)]
    journal.clear()
    report = verify(labels.store)
    assert (report.num_rows, report.num_segments, report.abandoned) == (3, 1, [])


def test_an_unknown_kind_of_address_is_refused():
    with pytest.raises(ValueError, match="no file system for 'gopher://x'"):
        LabelStore(StoreLocation("gopher://x", "0f"))


def test_a_full_disk_costs_no_result(tmp_path, caplog):
    flag = tmp_path / "flag"
    labels = KnownLabels(StoreLocation(str(tmp_path / "labels"), "0f", filesystem=FullDisk(flag)))
    flag.touch()
    result = bought(labels, trajectory(1, 0))
    assert result.slow is not None
    assert len(result.unstored) == 1
    late = labels.append_late(result, run="a")
    assert len(late.unstored) == 1
    assert "5 slow results are not on disk" in caplog.text
    flag.unlink()
    assert labels.append_late(late, run="a").unstored == ()
    labels.store.refresh()
    assert_same_answer(labels.lookup(trajectory(1, 0)), result)
    assert labels.store.abandoned() == []


def test_a_failed_request_is_noted_to_be_replayed_alone(location, tmp_path):
    (tmp_path / "flag").touch()
    faulty = envs.FaultyEnv({"flag": str(tmp_path / "flag"), "at_step": 2, "how": "raise"})
    labels = KnownLabels(location)
    result = labels.with_failure_noted(bought(labels, trajectory(1, 0), env=faulty), "a")
    ((name, (request, error)),) = labels.failures().items()
    assert name in result.error
    assert "the mesh is tangled" in error
    assert len(request) == 5  # the action that failed included
    np.testing.assert_array_equal(request.actions, trajectory(1, 0).actions)


# --- exports and fingerprints ---


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_export_has_a_row_per_slow_step(location, tmp_path, form):
    labels = KnownLabels(location)
    result = bought(labels, trajectory(1, 0))
    bought(labels, steps(1, 1, numbers=[1]), purchase="s")
    path = tmp_path / f"labels.{form}"
    assert export_labels(labels.store, path, form) == 6
    table = pa.csv.read_csv(path) if form == "csv" else pq.read_table(path)
    rows = table.filter(pa.compute.equal(table["kind"], "trajectory"))
    np.testing.assert_allclose(rows["slow.reward"].to_numpy(), result.slow[REWARD], rtol=1e-6)
    np.testing.assert_allclose(rows["slow.obs[1]"].to_numpy(), result.slow[OBS][:, 1], rtol=1e-6)
    assert {path.name} == {p.name for p in tmp_path.iterdir() if p.is_file()}


def test_there_is_nothing_to_export_from_an_empty_store(location, tmp_path):
    with pytest.raises(ValueError, match="nothing to export"):
        export_labels(LabelStore(location), tmp_path / "x.csv", "csv")
    with pytest.raises(ValueError, match="csv or parquet, got 'xlsx'"):
        export_labels(LabelStore(location), tmp_path / "x", "xlsx")
    with pytest.raises(ValueError, match="no labels in"):
        pairs_in(str(tmp_path / "elsewhere"))


def test_the_fingerprint_follows_ids_configs_and_versions(monkeypatch):
    pair = EnvPair("Pendulum-v1", "tests.envs.StatefulEnv", {}, {"gain": 0.5, "f": np.sin})
    assert pair_fingerprint(pair) == pair_fingerprint(
        replace(pair, slow_config=dict(pair.slow_config))
    )
    others = [
        replace(pair, slow_config={"gain": 0.25, "f": np.sin}),
        replace(pair, fast_config={"g": 1.0}),
        replace(pair, slow="tests.envs.SleepyEnv"),
        replace(pair, fast=envs.StatefulEnv),
    ]
    prints = {pair_fingerprint(other) for other in (pair, *others)}
    assert len(prints) == 5
    assert set(pair_description(pair)["versions"]) == {"gymnasium", "tests"}
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert pair_fingerprint(pair) not in prints


# --- the books ---


class StoreAndBuffer(RuleBasedStateMachine):
    """Runs that ask, crash, resume, merge and share one store; the books hold at every moment."""

    numbers = st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True)

    @initialize()
    def start(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.location = StoreLocation(self.folder.name, "0f")
        self.env = envs.OutcomeEnv({"invalid_above": 2.0})
        self.labels = KnownLabels(self.location)
        self.ledgers = {"a": Ledger(), "b": Ledger()}
        self.buffers = {run: PairedBuffer(2, 1, capacity=12) for run in "ab"}
        self.num_bought, self.num_asked = 0, 0
        self.paid_and_lost = dict.fromkeys("ab", 0)

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def _answer(self, run, request):
        self.labels.store.refresh()
        retries = Retries(request, 2, self.labels.lookup(request, run))
        for rows in retries.asks():
            self.num_asked += 1
            part = bought(
                self.labels, request.rows(rows), run=run, purchase=str(self.num_asked), env=self.env
            )
            self.num_bought += part.num_steps
            retries.add(part, rows)
        return retries.result

    def _enter(self, run, result):
        self.ledgers[run].enter([result])
        valid = result.slow[VALID].astype(bool)
        self.buffers[run].add(result.slow[OBS][valid], result.slow[REWARD][valid, None])

    @rule(run=st.sampled_from("ab"), numbers=numbers)
    def ask_for_steps(self, run, numbers):
        self._enter(run, self._answer(run, steps(self.num_asked, 0, numbers=numbers)))

    @rule(run=st.sampled_from("ab"), number=st.integers(0, 3))
    def ask_for_a_trajectory(self, run, number):
        request = replace(trajectory(1, number), key=(self.num_asked, 1))
        self._enter(run, self._answer(run, request))

    @rule(run=st.sampled_from("ab"), numbers=numbers)
    def die_before_the_answer_is_used_and_resume(self, run, numbers):
        request = steps(self.num_asked, 2, numbers=numbers)
        first = self._answer(run, request)
        self.labels = KnownLabels(self.location)  # the next process
        before = self.num_bought
        again = self._answer(run, request)
        assert self.num_bought == before
        assert (again.num_steps, again.num_reused) == (first.num_steps, first.num_reused)
        self._enter(run, again)

    @rule()
    def merge(self):
        self.labels.store.compact(min_segments=2)

    @rule(data=st.data())
    def spoil_nothing_by_verifying(self, data):
        assert verify(LabelStore(self.location)).damaged == {}

    @invariant()
    def books_are_balanced(self):
        if not hasattr(self, "ledgers"):
            return
        for run, ledger in self.ledgers.items():
            assert ledger.imbalance(self.buffers[run].num_added) == 0
        report = verify(LabelStore(self.location))
        assert report.num_bought_twice == 0
        assert report.num_rows == self.num_bought
        assert sum(ledger.num_env_steps for ledger in self.ledgers.values()) == self.num_bought


TestStoreAndBuffer = StoreAndBuffer.TestCase
TestStoreAndBuffer.settings = settings(
    max_examples=15,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("request_", REQUESTS)
def test_an_attempt_that_died_after_its_last_row_lacks_nothing(location, request_):
    labels = KnownLabels(location)
    bought(labels, request_)
    assert labels.bought(request_, "p").error is None
    assert labels.bought(request_, "q").error == "it was interrupted"


def test_a_whole_attempt_is_learned_from_and_not_the_one_that_broke_off_before(location, tmp_path):
    labels = KnownLabels(location)
    (tmp_path / "flag").touch()
    faulty = envs.FaultyEnv({"flag": str(tmp_path / "flag"), "at_step": 2, "how": "raise"})
    bought(labels, trajectory(1, 0), env=faulty, purchase="broken")
    faulty.config["at_step"] = 4
    bought(labels, trajectory(1, 0), env=faulty, purchase="longer")
    (found,) = labels.load_all()
    assert len(found.index) == 4
    whole = bought(labels, trajectory(1, 0), purchase="whole")
    (found,) = labels.load_all()
    assert_same_answer(found, whole)
    assert found.error is None


class ForgettingEnv(envs.OutcomeEnv):
    """Measures nothing in its second step, and does not say so."""

    def _info(self):
        return {} if self.count == 2 else {"measurement": np.array([self.position])}


def test_a_row_without_its_measurement_hides_no_other_however_it_was_written(location):
    labels, request = KnownLabels(location), trajectory(1, 0)
    writer = LabelWriter(labels, run="a", purchase="p")
    writer.is_due = lambda unwritten_s: True
    replay(request, ForgettingEnv(), None, writer)
    labels.store.refresh()
    for found in (labels.lookup(request, run="b"), labels.load_all()[0]):
        assert np.isnan(found.slow[MEASUREMENT][:, 0]).tolist() == [False, True, *[False] * 3]
        assert found.slow[VALID].tolist() == [True, False, True, True, True]
