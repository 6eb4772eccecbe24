"""What the op-amp tests share: whether ngspice is here, and decks to run in it."""

from functools import cache
from shutil import which

import pytest

from rllib_offset.envs.opamp.cards import MODEL_CARDS
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

DIVIDER = ("* divider", "Vdd vdd 0 1 ac 1", "R1 vdd out 1k", "R2 out 0 1k")
HANG = (*DIVIDER, ".control", "while 1", "end", ".endc")

BROKEN = {
    "floating-node": ("* broken", "Vdd vdd 0 1 ac 1", "R1 vdd 0 1k", "C1 out x 1p", "C2 x 0 1p"),
    "current-into-nothing": ("* broken", "Vdd vdd 0 1 ac 1", "R1 vdd 0 1k", "I1 0 out 1m"),
    "voltage-loop": (*DIVIDER, "V2 vdd 0 2"),
    "zero-width": (*DIVIDER, *MODEL_CARDS, "M1 out vdd 0 0 nch w=0 l=90n"),
    "logarithm-of-a-negative-number": (*DIVIDER[:2], "B1 out 0 v=ln(-1)*v(vdd)", "R1 out 0 1k"),
    "infinite-response": ("* broken", "Vdd vdd 0 1 ac 1e308", "E1 out 0 vdd 0 1e308", "R1 vdd 0 1"),
    "nan-as-value": (*DIVIDER, "R3 out 0 nan"),
    "unknown-model": (*DIVIDER, "M1 out vdd 0 0 nosuch w=1u l=1u"),
    "no-such-card": (*DIVIDER, "%%$# what is this"),
    "endless-subcircuit": (*DIVIDER, "X1 out loop", ".subckt loop a", "X2 a loop", ".ends"),
    "nothing": ("* broken",),
    "no-output": ("* broken", "Vdd vdd 0 1 ac 1", "R1 vdd 0 1k"),
    "another-sweep": (*DIVIDER, ".control", "ac dec 1 1 10", "quit", ".endc"),
    "out-of-memory": (*DIVIDER, ".control", "let a=vector(2000000000)", ".endc"),
    "endless-loop": HANG,
    "endless-printing": (*DIVIDER, ".control", "while 1", "echo all work", "end", ".endc"),
}
