import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rllib_offset.envs.opamp.design import START
from rllib_offset.envs.opamp.engine import Bench
from rllib_offset.envs.opamp.layout import extracted
from rllib_offset.envs.opamp.library_engine import LibraryEngine
from rllib_offset.envs.opamp.measurement import measure
from rllib_offset.envs.opamp.netlists import BENCH, schematic
from rllib_offset.envs.opamp.subprocess_engine import SubprocessEngine
from rllib_offset.errors import SlowSimulatorError
from tests.opamp import BROKEN, HANG, REDUCED, needs_library, needs_program

ROOT = str(Path(__file__).parents[1])
GOOD = schematic(START)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(LibraryEngine, marks=needs_library, id="library"),
        pytest.param(SubprocessEngine, marks=needs_program, id="subprocess"),
    ],
)
def engine(request):
    engine = request.param(BENCH, deadline_s=1.0)
    yield engine
    engine.close()


@pytest.fixture
def library():
    engine = LibraryEngine(BENCH, deadline_s=0.5)
    yield engine
    engine.close()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_deck_is_one_invalid_result_and_harms_no_later_one(engine, name):
    runs = engine.counts["runs"]
    evaluation = measure(engine.run(BROKEN[name]))
    assert not evaluation.is_valid
    assert np.isfinite(evaluation.specs).all()
    assert "\n" not in evaluation.failure
    after = engine.run(GOOD)
    assert (after.status, engine.counts["runs"] - runs) == ("ok", 2)
    assert measure(after).is_valid


def test_every_run_is_counted_by_how_it_ended(engine):
    engine.run(GOOD)
    ends = ("ok", "refused", "malformed", "died", "deadline")
    assert sum(engine.counts[status] for status in ends) == engine.counts["runs"]


def test_results_repeat_bit_for_bit_whatever_ran_between(engine):
    first = engine.run(GOOD)
    engine.run(extracted(START, **REDUCED))
    again = engine.run(GOOD)
    assert np.array_equal(first.response, again.response)
    assert first.supply_a == again.supply_a


@needs_library
@needs_program
def test_both_engines_find_the_same_specs(library):
    for deck in (GOOD, extracted(START, **REDUCED)):
        found = [measure(e.run(deck)).specs for e in (library, SubprocessEngine(BENCH))]
        assert found[0] == pytest.approx(found[1], rel=1e-9)


@needs_library
def test_a_hanging_deck_ends_at_its_deadline_and_the_next_one_is_served_at_once(library):
    begin = time.monotonic()
    assert library.run(HANG).status == "deadline"
    killed = time.monotonic()
    assert library.run(GOOD).status == "ok"
    assert killed - begin < 1.0
    assert time.monotonic() - killed < 1.0


@needs_library
def test_a_stopped_child_costs_one_deadline(library):
    os.kill(library.pid, signal.SIGSTOP)
    result = library.run(GOOD)
    assert (result.status, result.is_repeatable) == ("deadline", False)
    assert library.run(GOOD).status == "ok"


@needs_library
def test_a_child_killed_between_runs_is_replaced_unnoticed(library):
    os.kill(library.pid, signal.SIGKILL)
    assert library.run(GOOD).status == "ok"


@needs_library
@pytest.mark.parametrize(
    ("kills", "expected"),
    [pytest.param(1, "deadline", id="once"), pytest.param(2, "died", id="twice")],
)
def test_a_child_killed_at_work_gets_the_deck_once_more(library, kills, expected):
    def kill():
        known = None
        for _ in range(kills):
            while library.pid in (known, None):
                time.sleep(0.005)
            known = library.pid
            time.sleep(0.2)  # until it is at work
            os.kill(known, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = library.run(HANG)
    killer.join()
    assert (result.status, library.counts["retried"]) == (expected, 1)
    assert library.run(GOOD).status == "ok"


@needs_library
def test_a_child_is_recycled():
    engine = LibraryEngine(BENCH, recycle_after=2)
    pids = []
    for _ in range(4):
        engine.run(GOOD)
        pids.append(engine.pid)
    engine.close()
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert engine.pid is None


@needs_library
def test_the_memory_of_child_and_host_stays_flat(library):
    for _ in range(50):
        library.run(GOOD)
    before = [resident_bytes(pid) for pid in (library.pid, os.getpid())]
    for _ in range(300):
        assert library.run(GOOD).status == "ok"
    after = [resident_bytes(pid) for pid in (library.pid, os.getpid())]
    assert library.counts["started"] == 1
    assert max(np.subtract(after, before)) < 4 << 20


def resident_bytes(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@needs_library
def test_a_busy_child_ends_with_the_process_that_asked():
    code = (
        "import sys, threading\n"
        "from rllib_offset.envs.opamp.library_engine import LibraryEngine\n"
        "from rllib_offset.envs.opamp.netlists import BENCH\n"
        "engine = LibraryEngine(BENCH, deadline_s=60)\n"
        "print(engine.pid, flush=True)\n"
        f"engine.run({HANG!r})\n"
    )
    host = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(host.stdout.readline())
    time.sleep(0.3)  # until it hangs
    assert is_alive(child)
    host.kill()
    host.wait()
    host.stdout.close()
    give_up = time.monotonic() + 5.0
    while is_alive(child) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not is_alive(child)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it ended, perhaps between opening and reading
        return False


@needs_library
def test_a_deadline_holds_for_a_deck_too_large_for_the_pipe(library):
    os.kill(library.pid, signal.SIGSTOP)
    assert library.run((*GOOD, *["* " + "x" * 1000] * 1000)).status == "deadline"


@needs_library
def test_a_bench_that_reads_what_is_not_there_is_refused():
    engine = LibraryEngine(Bench(1e3, 1e4, 10, "vdd", "nowhere"))
    result = engine.run(GOOD)
    engine.close()
    assert result.status == "refused"
    assert "v(nowhere)" in result.message


def test_a_missing_library_is_one_line_with_the_command():
    with pytest.raises(SlowSimulatorError, match=r"apt-get install libngspice0`$") as error:
        LibraryEngine(BENCH, library="libnosuch.so.0")
    assert "\n" not in str(error.value)


def test_a_missing_program_is_one_line_with_the_command():
    with pytest.raises(SlowSimulatorError, match=r"apt-get install ngspice`$"):
        SubprocessEngine(BENCH, executable="nosuch")


@pytest.mark.parametrize(
    "limits", [{"deadline_s": 0.0}, {"deadline_s": np.inf}, {"memory_bytes": 0}]
)
def test_limits_that_do_not_limit_are_refused(limits):
    for kind in (LibraryEngine, SubprocessEngine):
        with pytest.raises(ValueError, match="must be finite and > 0"):
            kind(BENCH, **limits)
