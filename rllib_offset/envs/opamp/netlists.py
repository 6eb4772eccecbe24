"""The circuit, its test bench and its schematic netlist (fidelity F1)."""

from typing import Literal, NamedTuple

from numpy.typing import ArrayLike

from rllib_offset.envs.opamp.cards import MODEL_CARDS
from rllib_offset.envs.opamp.design import (
    COMMON_MODE_V,
    COMPENSATION_UNIT_F,
    FINGER_WIDTH_M,
    GATE_LENGTH_M,
    LOAD_F,
    REFERENCE_A,
    SUPPLY_V,
    as_design,
)
from rllib_offset.envs.opamp.engine import Bench, Deck

__all__ = ["BENCH", "DEVICES", "TEST_BENCH", "Transistor", "schematic"]

BENCH = Bench(start_hz=1e3, stop_hz=1e11, points_per_decade=10, supply="vdd", output="out")


class Transistor(NamedTuple):
    """One transistor: its nets, and which design parameter counts its fingers."""

    name: str
    model: Literal["nch", "pch"]
    drain: str
    gate: str
    source: str
    bulk: str
    parameter: int


# input pair with a mirror as load, common-source output, one bias diode for both current sources
DEVICES = (
    Transistor("load_a", "pch", "mirror", "mirror", "vdd", "vdd", 0),
    Transistor("load_b", "pch", "first", "mirror", "vdd", "vdd", 0),
    Transistor("input_a", "nch", "mirror", "minus", "tail", "0", 1),
    Transistor("input_b", "nch", "first", "plus", "tail", "0", 1),
    Transistor("tail", "nch", "tail", "bias", "0", "0", 3),
    Transistor("bias", "nch", "bias", "bias", "0", "0", 4),
    Transistor("driver", "pch", "out", "first", "vdd", "vdd", 2),
    Transistor("sink", "nch", "out", "bias", "0", "0", 5),
)

# A huge inductor closes the loop at DC and a huge capacitor opens it for AC: every design finds its
# own operating point, where a fixed input voltage would bias one in three.
TEST_BENCH = (
    f"Iref vdd bias {REFERENCE_A}",
    f"Vdd vdd 0 dc {SUPPLY_V}",
    f"Cload out 0 {LOAD_F}",
    "Vin in 0 dc 0 ac 1",
    f"Vcm cm 0 dc {COMMON_MODE_V}",
    "Lservo out minus 1e6",
    "Cservo minus ac_minus 1e3",
    "Eplus plus cm in 0 0.5",
    "Eminus ac_minus 0 in 0 -0.5",
)


def schematic(design: ArrayLike) -> Deck:
    """Return the deck with ideal wires: a transistor is one instance, without junctions.

    Args:
        design: ``(7,)``, see `rllib_offset.envs.opamp.design.PARAMETERS`.

    Raises:
        ValueError: If the design cannot be built.
    """
    sizes = as_design(design)
    transistors = [
        f"M{t.name} {t.drain} {t.gate} {t.source} {t.bulk} {t.model} w={FINGER_WIDTH_M}"
        f" l={GATE_LENGTH_M} m={sizes[t.parameter]} ad=0 as=0 pd=0 ps=0"
        for t in DEVICES
    ]
    capacitor = f"Cc first out {sizes[6] * COMPENSATION_UNIT_F:.6g}"
    return ("* op-amp, schematic", *MODEL_CARDS, *transistors, capacitor, *TEST_BENCH)
