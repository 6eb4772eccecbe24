"""What the op-amp tests share: whether ngspice is here, and decks to run in it."""

from functools import cache
from shutil import which

import pytest

from rllib_offset.envs.opamp.library_engine import LibraryEngine
from rllib_offset.envs.opamp.netlists import BENCH
from rllib_offset.errors import SlowSimulatorError


@cache
def library_problem():
    try:
        LibraryEngine(BENCH).close()
    except SlowSimulatorError as error:
        return str(error)
    return ""


needs_library = pytest.mark.skipif(bool(library_problem()), reason=library_problem())
needs_program = pytest.mark.skipif(which("ngspice") is None, reason="needs the program ngspice")

HAND = "rllib_offset.envs:rllib_offset/OpAmpHand-v0"
SCHEMATIC = "rllib_offset.envs:rllib_offset/OpAmpSchematic-v0"
EXTRACTED = "rllib_offset.envs:rllib_offset/OpAmpExtracted-v0"
REDUCED = {"group": 25, "segments": 4}  # a netlist small enough for tests

# designs of a random sample with their schematic specs, made with another program than ours
KNOWN_DESIGNS = (
    ((15, 14, 80, 51, 60, 61, 72), (257.059654, 2.93777468e7, 63.2592947, 8.99150898e-5)),
    ((4, 50, 16, 41, 93, 56, 8), (261.151306, 9.59883317e7, 24.9640501, 6.50994115e-5)),
)
