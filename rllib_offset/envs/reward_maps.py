"""Reward maps of the PointMass family: position in, reward out (section 2.1 of the paper).

A map is a small frozen object that is called with positions ``(..., 2)`` of the square
``[-1, 1]^2`` and returns rewards ``(...)``. Maps wrap one another: the fine structure of a rugged
pair, for example, is ``Noise(Distance())`` on one side and ``Noise(RewardOffset(Distance()))`` on
the other.

Nothing here is drawn at random. What looks random (which cells are zeroed, the noise) is a hash of
the number of the cell that a position lies in and of ``salt``, so a map is the same after every
reset, in every process and for any number of lanes.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TARGET",
    "Distance",
    "Noise",
    "PseudoSparse",
    "RewardMap",
    "RewardOffset",
    "Sparse",
    "cell_hash",
    "within_square",
]

Floats = NDArray[np.float64]

TARGET = (0.4, 0.3)

_LOW, _HIGH = np.array(-1.0), np.array(1.0)  # of the square; plain numbers cost twice as much
_FIRST_CELL = 1000  # number of the cell at (-1, -1): any would do, another one means other maps
_SMALLEST_CELL = 1e-3  # a table of 2001 x 2001 cells, 32 MB


def within_square(points: Floats) -> Floats:
    """Return points ``(..., 2)`` clipped to the square."""
    # `np.clip` costs four times as much
    inside: Floats = np.maximum(points, _LOW)
    np.minimum(inside, _HIGH, out=inside)
    return inside


class RewardMap(Protocol):
    """Anything that maps positions of the square to rewards."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest reward that the map can return (not always attained)."""

    def __call__(self, positions: Floats) -> Floats:
        """Return the reward at each position: ``(..., 2) -> (...)``."""


@dataclass(frozen=True)
class Distance:
    r"""The paper's :math:`R(\vec x) = -|\vec x - \mathrm{target}|`.

    Args:
        target: Where the reward is zero, its maximum; a point of the square.

    Raises:
        ValueError: If the target lies outside the square.
    """

    target: tuple[float, float] = TARGET

    def __post_init__(self) -> None:
        if not max(abs(self.target[0]), abs(self.target[1])) <= 1.0:
            raise ValueError(f"`target` must lie in the square [-1, 1]^2, got {self.target}")

    @property
    def bounds(self) -> tuple[float, float]:
        """The farthest corner's reward, and zero."""
        corners = np.array([(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
        return float(self(corners).min()), 0.0

    def __call__(self, positions: Floats) -> Floats:
        """Return minus the distance to the target: ``(..., 2) -> (...)``."""
        differences = positions - self._target
        differences *= differences
        squares: Floats = differences[..., 0] + differences[..., 1]
        return -np.sqrt(squares)  # exactly rounded: any batch shape gives the same bits

    @cached_property
    def _target(self) -> Floats:
        return np.array(self.target)


@dataclass(frozen=True)
class RewardOffset:
    r"""The paper's :math:`R_O(\vec x) = R(\vec x - \vec v)`, clipped to the square.

    Args:
        base: ``R``.
        shift: The paper's ``v``; the best position moves by this much.
    """

    base: RewardMap
    shift: tuple[float, float] = (-0.8, -0.7)

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the base map."""
        return self.base.bounds

    def __call__(self, positions: Floats) -> Floats:
        """Return the base reward at the shifted positions: ``(..., 2) -> (...)``."""
        return self.base(within_square(positions - self._shift))

    @cached_property
    def _shift(self) -> Floats:
        return np.array(self.shift)  # a tuple would be turned into an array in every call


@dataclass(frozen=True)
class Sparse:
    r"""The paper's :math:`R_S(\vec x) = R(\vec x)\,\mathbb 1\{h(\cdot) \ge p\}`.

    Two things that the paper leaves open:

    - *What is hashed.* It prints ``h(R(x))`` with ``h: R^2 -> [0, 1]``. Hashing the reward value
      would zero whole rings around the target; the domain of ``h`` is that of positions, and a
      reset is said to keep "the space". Here the cell of the position is hashed.
    - *What a zeroed cell is worth.* Rewards are negative, so setting one to zero, as printed, makes
      the cell as good as the target itself: sparsity creates false optima, spread over the square.
      That is the default, since it is what the paper says. ``zero_to="worst"`` gives such cells the
      lowest reward of the base map, the "low values everywhere except for a few sharp peaks" of the
      paper's own motivation.

    The offset ``R - R_S`` is a function of position and observed reward: it is ``R`` where the
    reward was zeroed and zero elsewhere.

    Args:
        base: ``R``.
        threshold: The paper's ``p``, in ``[0, 1]``: the share of the cells that is zeroed.
        cell: Side of a cell, in units of position.
        salt: Another salt zeroes other cells.
        zero_to: Reward of the zeroed cells: ``"zero"``, or ``"worst"`` of the base map.

    Raises:
        ValueError: If an argument is outside its range.
    """

    base: RewardMap
    threshold: float = 0.5
    cell: float = 0.05
    salt: int = 7
    zero_to: Literal["zero", "worst"] = "zero"

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"`threshold` must be in [0, 1], got {self.threshold}")
        if self.zero_to not in ("zero", "worst"):
            raise ValueError(f'`zero_to` must be "zero" or "worst", got {self.zero_to!r}')
        _check_cells(self.cell, self.salt)

    @property
    def zeroed_reward(self) -> float:
        """Reward of a zeroed cell."""
        return 0.0 if self.zero_to == "zero" else self.base.bounds[0]

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the base map, widened to contain the zeroed reward."""
        low, high = self.base.bounds
        return min(low, self.zeroed_reward), max(high, self.zeroed_reward)

    def __call__(self, positions: Floats) -> Floats:
        """Return the base reward in kept cells: ``(..., 2) -> (...)``."""
        kept = _at_cells(_uniform_table(self.cell, self.salt), positions, self.cell)
        sparse = np.where(kept >= self.threshold, self.base(positions), self.zeroed_reward)
        return sparse[()]  # a single position gives a scalar, as the other maps do


@dataclass(frozen=True)
class PseudoSparse:
    r"""The paper's :math:`R_P(\vec x) = \lambda R_S(\vec x) + (1 - \lambda) R(\vec x)`.

    Args:
        sparse: ``R_S``; its base map is ``R``.
        mix: The paper's ``lambda``, in ``[0, 1]``: 1 is the sparse map, 0 the base map.

    Raises:
        ValueError: If ``mix`` is outside its range.
    """

    sparse: Sparse
    mix: float = 0.8

    def __post_init__(self) -> None:
        if not 0.0 <= self.mix <= 1.0:
            raise ValueError(f"`mix` must be in [0, 1], got {self.mix}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the sparse map, which contain those of its base."""
        return self.sparse.bounds

    def __call__(self, positions: Floats) -> Floats:
        """Return the convex combination of both maps: ``(..., 2) -> (...)``."""
        return self.mix * self.sparse(positions) + (1.0 - self.mix) * self.sparse.base(positions)


@dataclass(frozen=True)
class Noise:
    r"""The paper's :math:`R_N(\vec x) = R(\vec x) + \varepsilon(\vec x)`, noise fixed per cell.

    With a small ``sigma`` on the slow map it is the fine structure of the rugged pair.

    Args:
        base: ``R``.
        sigma: Standard deviation of the Gaussian noise.
        cell: Side of a cell, in units of position.
        salt: Another salt gives other noise.

    Raises:
        ValueError: If an argument is outside its range.
    """

    base: RewardMap
    sigma: float = 0.3
    cell: float = 0.05
    salt: int = 7

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma < np.inf:
            raise ValueError(f"`sigma` must be finite and >= 0, got {self.sigma}")
        _check_cells(self.cell, self.salt)

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the base map, widened by the lowest and highest noise of any cell."""
        (low, high), noise = self.base.bounds, _normal_table(self.cell, self.salt)
        return low + self.sigma * float(noise.min()), high + self.sigma * float(noise.max())

    def __call__(self, positions: Floats) -> Floats:
        """Return the base reward plus the noise of the cell: ``(..., 2) -> (...)``."""
        noise = _at_cells(_normal_table(self.cell, self.salt), positions, self.cell)
        return self.base(positions) + self.sigma * noise


def cell_hash(columns: NDArray[np.uint64], rows: NDArray[np.uint64], salt: int) -> Floats:
    """Hash cell numbers to ``[0, 1)``, evenly: the paper's ``h``.

    The mixing is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    x_part = columns * np.uint64(0x9E3779B97F4A7C15)
    y_part = rows * np.uint64(0xC2B2AE3D27D4EB4F)
    bits = x_part ^ y_part ^ np.uint64(salt)
    bits = (bits ^ (bits >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_cells(cell: float, salt: int) -> None:
    if not _SMALLEST_CELL <= cell <= 2.0:
        raise ValueError(f"`cell` must be in [{_SMALLEST_CELL}, 2], got {cell}")
    if not 0 <= salt < 2**63:
        raise ValueError(f"`salt` must be in [0, 2^63), got {salt}")


@lru_cache(maxsize=16)
def _uniform_table(cell: float, salt: int) -> Floats:
    numbers = np.arange(int(2.0 / cell) + 1, dtype=np.uint64) + np.uint64(_FIRST_CELL)
    table = cell_hash(numbers[:, None], numbers[None, :], salt)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=16)
def _normal_table(cell: float, salt: int) -> Floats:
    """Standard normal per cell (Box-Muller); the same table whatever is looked up in it."""
    radius = np.sqrt(-2.0 * np.log(np.maximum(_uniform_table(cell, salt), 1e-9)))
    table: Floats = radius * np.cos(2.0 * np.pi * _uniform_table(cell, salt + 99))
    table.setflags(write=False)
    return table


def _at_cells(table: Floats, positions: Floats, cell: float) -> Floats:
    """Look positions ``(..., 2)`` up in a table of cells; outside the square, the nearest cell."""
    numbers = ((positions + 1.0) / cell).astype(np.intp)
    numbers = np.minimum(np.maximum(numbers, 0), len(table) - 1)
    found: Floats = table[numbers[..., 0], numbers[..., 1]]
    return found
