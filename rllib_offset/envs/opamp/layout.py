"""A synthetic layout of the op-amp and its parasitics: the extracted netlist (fidelity F2).

Deterministic, from a design alone: a row of devices whose fingers are instances of their own with
junctions, stress distances, contact and gate resistance; straps and routed trunks as RC ladders
with coupling between neighbours; a compensation capacitor in pieces; supply wires with resistance.
It behaves as an extraction does, but it is no foundry's extraction.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from numpy.typing import ArrayLike

from rllib_offset.envs.opamp.cards import (
    CONTACT_OHM,
    COUPLING_F_PER_M,
    DIFFUSION_M,
    FINGER_PITCH_M,
    FRINGE_F_PER_M,
    METAL_F_PER_M2,
    METAL_OHM_PER_SQUARE,
    MODEL_CARDS,
    POLY_OHM_PER_SQUARE,
    ROUTING_DETOUR,
    WIRE_WIDTH_M,
)
from rllib_offset.envs.opamp.design import (
    COMPENSATION_UNIT_F,
    FINGER_WIDTH_M,
    GATE_LENGTH_M,
    Design,
    as_design,
)
from rllib_offset.envs.opamp.engine import Deck
from rllib_offset.envs.opamp.netlists import DEVICES, TEST_BENCH, Transistor

__all__ = ["extracted"]

_ROW = ("bias", "tail", "input_a", "input_b", "load_a", "load_b", "driver", "sink")
_GAP_M = 1.5e-6  # between devices
_OVERHANG_M = 6e-6  # of a trunk beyond its last pin
_WIDE = {"vdd": 8, "0": 8, "out": 2, "tail": 2}  # trunk widths in wires
_SUPPLIES = ("vdd", "0")
_NEIGHBOURS = (
    ("mirror", "first"),
    ("first", "out"),
    ("plus", "first"),
    ("minus", "mirror"),
    ("bias", "tail"),
)
_VIA_OHM, _CAPACITOR_PIN_OHM = 4.0, 6.0
_MIM_F_PER_M2, _BOTTOM_PLATE, _MIM_FRINGE_F_PER_M = 2e-3, 0.08, 2e-11


def extracted(design: ArrayLike, *, group: int = 1, segments: int = 12) -> Deck:
    """Return the deck of the laid-out op-amp, about 4,850 cards for a large design.

    Args:
        design: ``(7,)``, see `rllib_offset.envs.opamp.design.PARAMETERS`.
        group: Fingers that share an instance. 1 is the reference; more are faster and coarser.
        segments: Rungs of the RC ladder of a trunk and of the compensation capacitor.

    Raises:
        ValueError: If the design cannot be built, or a dial is below one.
    """
    if int(group) != group or int(segments) != segments or min(group, segments) < 1:
        raise ValueError(f"must be whole numbers >= 1, got {group=}, {segments=}")
    sizes = as_design(design)
    parasitics = _Parasitics()
    places = _place(sizes)
    for transistor in DEVICES:
        _fingers(parasitics, transistor, int(sizes[transistor.parameter]), group)
    trunks = _trunks(parasitics, places, segments)
    _couple(parasitics, trunks, segments)
    _capacitor(parasitics, float(sizes[6]) * COMPENSATION_UNIT_F, segments)
    return ("* op-amp, extracted", *MODEL_CARDS, *parasitics.cards, *TEST_BENCH)


class _Parasitics:
    """Cards so far; resistors and capacitors are numbered as they come."""

    def __init__(self) -> None:
        self.cards: list[str] = []

    def resistor(self, a: str, b: str, ohm: float) -> None:
        self.cards.append(f"R{len(self.cards)} {a} {b} {ohm:.5g}")

    def capacitor(self, a: str, b: str, farad: float) -> None:
        self.cards.append(f"C{len(self.cards)} {a} {b} {farad:.5g}")


class _Trunk(NamedTuple):
    nodes: tuple[str, ...]
    length_m: float


def _place(sizes: Design) -> dict[str, float]:
    """Return the middle of every device along the row, in m."""
    fingers = {t.name: int(sizes[t.parameter]) for t in DEVICES}
    places, left = {}, 0.0
    for name in _ROW:
        width = fingers[name] * FINGER_PITCH_M
        places[name] = left + width / 2
        left += width + _GAP_M
    return places


def _fingers(out: _Parasitics, transistor: Transistor, fingers: int, group: int) -> None:
    """Draw a device: one instance per group of fingers, and a strap along each terminal."""
    name = transistor.name
    instances = math.ceil(fingers / group)
    share = fingers / instances  # fingers per instance
    strap_ohm = METAL_OHM_PER_SQUARE * FINGER_PITCH_M * share / WIRE_WIDTH_M
    strap_f = (METAL_F_PER_M2 * WIRE_WIDTH_M + FRINGE_F_PER_M) * FINGER_PITCH_M * share
    gate_ohm = POLY_OHM_PER_SQUARE * FINGER_WIDTH_M / GATE_LENGTH_M / 3
    nets = (transistor.drain, transistor.gate, transistor.source)
    before = [f"{net}.{name}" for net in nets]
    junction = _junction(share)
    for i in range(instances):
        strap = [f"{name}.{terminal}{i}" for terminal in "dgs"]
        for a, b in zip(before, strap, strict=True):
            out.resistor(a, b, strap_ohm)
            out.capacitor(b, "0", strap_f)
        before = strap
        drain, gate, source = strap
        inner = [f"{name}.i{terminal}{i}" for terminal in "dgs"]
        out.resistor(drain, inner[0], CONTACT_OHM / share)
        out.resistor(source, inner[2], CONTACT_OHM / share)
        out.resistor(gate, inner[1], gate_ohm / share)
        out.capacitor(gate, drain, COUPLING_F_PER_M * FINGER_WIDTH_M * share)
        left = DIFFUSION_M + (i + 0.5) * share * FINGER_PITCH_M
        right = DIFFUSION_M + (fingers - (i + 0.5) * share) * FINGER_PITCH_M
        out.cards.append(
            f"M{name}.{i} {' '.join(inner)} {transistor.bulk} {transistor.model}"
            f" w={FINGER_WIDTH_M} l={GATE_LENGTH_M} m={share:.6g}"
            f" sa={left:.4g} sb={right:.4g} {junction}"
        )


def _junction(share: float) -> str:
    area = FINGER_WIDTH_M * DIFFUSION_M * share / 2
    perimeter = (FINGER_WIDTH_M / 2 + DIFFUSION_M) * share
    return f"ad={area:.4g} as={area:.4g} pd={perimeter:.4g} ps={perimeter:.4g}"


def _trunks(out: _Parasitics, places: Mapping[str, float], segments: int) -> dict[str, _Trunk]:
    """Route one trunk per net, an RC ladder from the net's own node past all of its pins."""
    pins: dict[str, list[tuple[float, str]]] = {}
    for t in DEVICES:
        for net in dict.fromkeys((t.drain, t.gate, t.source)):
            pins.setdefault(net, []).append((places[t.name], f"{net}.{t.name}"))
    trunks = {}
    for net, unsorted in pins.items():
        places_of_net = sorted(unsorted)
        first, last = places_of_net[0][0], places_of_net[-1][0]
        length = ROUTING_DETOUR * (last - first + _OVERHANG_M)
        nodes = (net, *(f"{net}.t{j}" for j in range(1, segments + 1)))
        trunks[net] = _Trunk(nodes, length)
        width = WIRE_WIDTH_M * _WIDE.get(net, 1)
        ohm = METAL_OHM_PER_SQUARE * length / segments / width
        farad = (METAL_F_PER_M2 * width + FRINGE_F_PER_M) * length / segments
        for a, b in pairwise(nodes):
            out.resistor(a, b, ohm)
            if net not in _SUPPLIES:
                out.capacitor(b, "0", farad)
        for place, pin in places_of_net:
            rung = 1 + min(segments - 1, int((place - first) * ROUTING_DETOUR / length * segments))
            out.resistor(nodes[rung], pin, _VIA_OHM)
    return trunks


def _couple(out: _Parasitics, trunks: Mapping[str, _Trunk], segments: int) -> None:
    for net, neighbour in _NEIGHBOURS:
        a, b = trunks[net], trunks[neighbour]
        farad = COUPLING_F_PER_M * min(a.length_m, b.length_m) / segments
        for node, other in zip(a.nodes[1:], b.nodes[1:], strict=True):
            out.capacitor(node, other, farad)


def _capacitor(out: _Parasitics, farad: float, segments: int) -> None:
    """Draw the compensation capacitor in pieces, with its plates and what the lower one loads."""
    side_m = math.sqrt(farad / _MIM_F_PER_M2)
    bottom_f = _BOTTOM_PLATE * farad + _MIM_FRINGE_F_PER_M * side_m
    top = [f"cc.t{j}" for j in range(segments)]
    bottom = [f"cc.b{j}" for j in range(segments)]
    out.resistor(f"first.t{segments}", top[0], _CAPACITOR_PIN_OHM)
    out.resistor(f"out.t{segments}", bottom[0], _CAPACITOR_PIN_OHM)
    for a, b in zip(top, bottom, strict=True):
        out.capacitor(a, b, farad / segments)
        out.capacitor(b, "0", bottom_f / segments)
    for plate, squares in ((top, 2), (bottom, 4)):
        for a, b in pairwise(plate):
            out.resistor(a, b, METAL_OHM_PER_SQUARE * squares / segments)
