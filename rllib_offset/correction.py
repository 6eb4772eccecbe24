"""Apply a learned offset to what the fast simulator returned.

Arrays in, arrays out: which columns the predictor reads, which values it corrects, and the clipping
that keeps a corrected value within what the slow simulator was seen to return.  Knows neither Ray
nor episodes.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_offset.bounds import Bounds
from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    PREDICTOR_INPUTS,
    PREV_OBS,
    REWARD,
    STATE,
    TERMINATED,
    TIME,
    VALID,
    Columns,
)
from rllib_offset.measurements import NO_READER, MeasurementReader
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.pair_facts import PairFacts

__all__ = [
    "INPUTS",
    "TARGETS",
    "OffsetCorrection",
    "OffsetLayout",
    "Predicted",
]

INPUTS = (OBS, PREV_OBS, ACTION, STATE, NEXT_STATE, MEASUREMENT, TIME, PREDICTOR_INPUTS)
TARGETS = (OBS, REWARD, STATE, MEASUREMENT)


@dataclass(frozen=True)
class OffsetLayout:
    """Which columns are the predictor's inputs and which values it corrects.

    Shapes: ``N`` steps, ``D`` input features, ``K`` corrected values.

    Args:
        inputs: Any of :data:`INPUTS`.  ``"obs"`` is the observation *reached* by a step, the
            paper's ``o_f``; ``"prev_obs"`` the one the step started from; ``"predictor_inputs"``
            what the environment's own function of that name returns.
        targets: Any of :data:`TARGETS`.  With ``"state"`` the fast simulator is put into the
            corrected state after every step: the one-step residual, for pairs whose dynamics
            differ.
        obs_dim: Width of a flat observation.
        action_space: The environment's action space (Box, Discrete or MultiDiscrete).
        state_dim: Width of the simulator state, 0 if unknown.
        measurement_dim: Width of ``info["measurement"]``, 0 if there is none.
        predictor_inputs_dim: Width of the environment's ``predictor_inputs``, 0 if it has none.
        measures_resets: Whether a reset's observation follows from a measurement too.

    Raises:
        ValueError: If a name is unknown, or a column is asked for that the pair does not have.

    Example:
        >>> layout = OffsetLayout(("obs",), ("obs", "reward"), 3, spaces.Discrete(2))
        >>> layout.input_dim, layout.output_dim
        (3, 4)
    """

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    obs_dim: int
    action_space: spaces.Space[Any]
    state_dim: int = 0
    measurement_dim: int = 0
    predictor_inputs_dim: int = 0
    measures_resets: bool = False

    def __post_init__(self) -> None:
        _check_names("inputs", self.inputs, INPUTS)
        _check_names("targets", self.targets, TARGETS)
        names = {*self.inputs, *self.targets}
        if names & {STATE, NEXT_STATE} and not self.state_dim:
            raise ValueError(
                "`state` needs a pair that gives its simulator state; "
                "add `get_simulator_state()` to both environments or leave `state` out"
            )
        if MEASUREMENT in names and not self.measurement_dim:
            raise ValueError(
                "`measurement` needs `info['measurement']` and `outcome(...)` of the pair; "
                "add them to both environments or use targets=('obs', 'reward')"
            )
        if PREDICTOR_INPUTS in names and not self.predictor_inputs_dim:
            raise ValueError(
                "`predictor_inputs` needs `predictor_inputs(measurement, state, action)` of the "
                "fast environment; add it or name other inputs"
            )

    @property
    def input_dim(self) -> int:
        """``D``, features the predictor reads."""
        widths = {
            OBS: self.obs_dim,
            PREV_OBS: self.obs_dim,
            ACTION: spaces.flatdim(self.action_space),
            STATE: self.state_dim,
            NEXT_STATE: self.state_dim,
            MEASUREMENT: self.measurement_dim,
            TIME: 1,
            PREDICTOR_INPUTS: self.predictor_inputs_dim,
        }
        return sum(widths[name] for name in self.inputs)

    @property
    def output_dim(self) -> int:
        """``K``, values the predictor corrects."""
        return sum(self._target_widths().values())

    @property
    def resynchronises(self) -> bool:
        """Whether the fast simulator follows the corrected state (one-step residual mode)."""
        return STATE in self.targets

    @cached_property
    def needs_state(self) -> bool:
        """Whether the simulator state must be read at every step."""
        names = {*self.inputs, *self.targets}
        return bool(names & {STATE, NEXT_STATE, MEASUREMENT, PREDICTOR_INPUTS})

    @property
    def reads_history(self) -> bool:
        """Whether it takes more than a state and an action to tell what the predictor reads."""
        return not {PREV_OBS, TIME}.isdisjoint(self.inputs)

    @property
    def corrects_resets(self) -> bool:
        """Whether a reset observation, which no action led to, can be corrected."""
        return OBS in self.targets and set(self.inputs) <= {OBS, TIME}

    @property
    def corrects_measured_resets(self) -> bool:
        """Whether a reset observation can be computed from a corrected measurement."""
        known = {MEASUREMENT, PREDICTOR_INPUTS}
        return self.measures_resets and self.targets == (MEASUREMENT,) and set(self.inputs) <= known

    def is_told_by(self, slow: Columns, fast: Columns) -> bool:
        """Whether the columns of single steps hold all that is read and all that is compared."""
        compared = {NEXT_STATE if name == STATE else name for name in self.targets}
        read = {MEASUREMENT if name == PREDICTOR_INPUTS else name for name in self.inputs}
        return compared <= slow.keys() and compared | read | {STATE, ACTION} <= fast.keys()

    def features(
        self, columns: Columns, reader: MeasurementReader = NO_READER
    ) -> NDArray[np.float32]:
        """Return the predictor's inputs, ``(N, D)``; ``reader`` computes those of the pair."""
        parts = [self._part(name, columns, reader) for name in self.inputs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def identity(
        self, columns: Columns, reader: MeasurementReader = NO_READER
    ) -> tuple[NDArray[Any], ...]:
        """Return the arrays, ``(N, ...)`` each, in which two steps differ if their labels can.

        What the environment says its offset depends on; state and action where it says nothing.
        """
        if self.inputs == (PREDICTOR_INPUTS,):
            return (self.features(columns, reader),)
        return columns[STATE], columns[ACTION]

    def _part(self, name: str, columns: Columns, reader: MeasurementReader) -> NDArray[np.float32]:
        if name == PREDICTOR_INPUTS:
            return reader.inputs(columns)
        if name == ACTION:
            return self._flat_actions(columns[ACTION])
        return _as_matrix(columns[name])

    def offsets(self, slow: Columns, fast: Columns) -> NDArray[np.float32]:
        """Return slow minus fast for every target, ``(N, K)``."""
        names = {STATE: NEXT_STATE}
        parts = [
            _as_matrix(slow[names.get(name, name)], np.float64)
            - _as_matrix(fast[names.get(name, name)], np.float64)
            for name in self.targets
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def split(self, offsets: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cut ``(N, K)`` offsets into one array per target."""
        return {name: offsets[:, columns] for name, columns in self._target_columns.items()}

    @cached_property
    def _target_columns(self) -> dict[str, slice]:
        widths = self._target_widths()
        stops = accumulate(widths.values())
        return {
            name: slice(stop - width, stop)
            for (name, width), stop in zip(widths.items(), stops, strict=True)
        }

    def _target_widths(self) -> dict[str, int]:
        widths = {
            OBS: self.obs_dim,
            REWARD: 1,
            STATE: self.state_dim,
            MEASUREMENT: self.measurement_dim,
        }
        return {name: widths[name] for name in self.targets}

    def _flat_actions(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return _one_hot(actions - space.start, int(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            columns = (actions - space.start).T
            widths = space.nvec.ravel()
            return np.concatenate(
                [_one_hot(c, int(n)) for c, n in zip(columns, widths, strict=True)], axis=1
            )
        return _as_matrix(actions)


class Predicted(NamedTuple):
    """What an ensemble says of some steps: ``N`` steps, ``D`` inputs, ``M`` members, ``K`` targets.

    ``features`` (N, D) is what it was asked, ``members`` (M, N, K) what each member says, less what
    they have in common, and ``mean`` (N, K) the offset.
    """

    features: NDArray[np.float32]
    members: NDArray[np.float32]
    mean: NDArray[np.float32]


@dataclass(frozen=True)
class OffsetCorrection:
    """The corrected simulator's arithmetic: fast columns in, corrected columns out.

    Args:
        layout: What is read and what is corrected.
        predictor: The fitted offset, or ``None`` for no correction.
        reward_range: Lowest and highest slow reward observed; corrected rewards are clipped to it,
            or the agent learns to exploit the predictor.
        obs_low: Lower bounds of the slow observation space, ``(obs_dim,)``.
        obs_high: Upper bounds, ``(obs_dim,)``.
        pessimism: Standard deviations of the ensemble subtracted from a corrected reward.
        spread_weights: ``(K,)``, those of the :class:`~rllib_offset.offset_trainer.OffsetTrainer`.
        flag_threshold: Relative spread beyond which a correction is outside of the labelled region.
    """

    layout: OffsetLayout
    predictor: NumpyPredictor | None = None
    reward_range: tuple[float, float] | None = None
    obs_low: NDArray[np.float32] | None = None
    obs_high: NDArray[np.float32] | None = None
    pessimism: float = 0.0
    spread_weights: NDArray[np.float64] | None = None
    flag_threshold: float = np.inf

    def reset_observations(
        self,
        obs: NDArray[np.float32],
        measured: Columns | None = None,
        reader: MeasurementReader = NO_READER,
    ) -> NDArray[np.float32]:
        """Correct the observations that resets returned, ``(N, obs_dim)``.

        Args:
            obs: What the fast simulator returned.
            measured: Its columns ``measurement`` and ``state``, where resets are measured.
            reader: What the pair makes of a measurement.
        """
        if self.predictor is None:
            return obs
        if measured is not None and self.layout.corrects_measured_resets:
            corrected = measured[MEASUREMENT] + self._predict(measured, reader).mean
            seen = {OBS: reader.outcomes(measured | {MEASUREMENT: corrected})[OBS]}
            return _where_valid(measured | {OBS: obs}, seen)[OBS]
        if not self.layout.corrects_resets:
            return obs
        time = np.zeros(len(obs), np.float32)
        offsets = self.predictor(self.layout.features({OBS: obs, TIME: time}))
        return self._bounded(obs + self.layout.split(offsets)[OBS])

    def steps(self, fast: Columns, reader: MeasurementReader = NO_READER) -> Columns:
        """Correct steps of the fast simulator.

        Args:
            fast: Columns of the steps; ``obs`` and ``reward`` always, the layout's inputs besides.
            reader: What the pair makes of a measurement, where that is what is corrected.

        Returns:
            Columns ``obs``, ``reward``, ``terminated``, in residual mode ``next_state``, and the
            corrected ``measurement``.
        """
        return self.corrected(fast, self.predicted(fast, reader), reader)

    def predicted(self, fast: Columns, reader: MeasurementReader = NO_READER) -> Predicted | None:
        """Return what the ensemble says of steps; ``None`` without a predictor."""
        return None if self.predictor is None else self._predict(fast, reader)

    def corrected(
        self, fast: Columns, predicted: Predicted | None, reader: MeasurementReader = NO_READER
    ) -> Columns:
        """Correct steps, as :meth:`steps` does, by what was predicted of them."""
        result = {name: fast[name] for name in (OBS, REWARD, TERMINATED)}
        if predicted is None:
            return result | ({NEXT_STATE: fast[NEXT_STATE]} if self.layout.resynchronises else {})
        offsets = self.layout.split(predicted.mean)
        if MEASUREMENT in offsets and reader.outcome is not None:
            measured = {MEASUREMENT: fast[MEASUREMENT] + offsets[MEASUREMENT]}
            result |= measured | reader.outcomes(fast | measured)
        if OBS in offsets:
            result[OBS] = self._bounded(fast[OBS] + offsets[OBS])
        if REWARD in offsets:
            reward = fast[REWARD] + offsets[REWARD][:, 0]
            if self.pessimism:
                assert self.predictor is not None
                spread = self.layout.split(self.predictor.spread_of(predicted.members))
                reward = reward - self.pessimism * spread[REWARD][:, 0]
            bounds = self._reward_bounds
            result[REWARD] = reward if bounds is None else bounds.clip(reward)
        if STATE in offsets:
            result[NEXT_STATE] = fast[NEXT_STATE] + offsets[STATE]
        return _where_valid(fast, result)

    def relative_spread(
        self, fast: Columns, reader: MeasurementReader = NO_READER
    ) -> NDArray[np.float64]:
        """Return the ensemble's spread on steps in units of the targets' scale, ``(N,)``."""
        predicted = self.predicted(fast, reader)
        if predicted is None or self.spread_weights is None:
            return np.zeros(len(fast[REWARD]))
        return self._relative_spread(predicted.features, predicted.members)

    def are_outside(
        self, features: NDArray[np.float32], members: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Return which steps lie outside of the labelled region, ``(N,)``; see `Predicted`."""
        return self._relative_spread(features, members) > self.flag_threshold

    def _predict(self, fast: Columns, reader: MeasurementReader) -> Predicted:
        """Predict; what the fast simulator calls invalid is left as it is."""
        assert self.predictor is not None
        features = self.layout.features(fast, reader)
        members = self.predictor.members(features)
        mean = self.predictor.mean_of(members)
        if VALID in fast:
            mean = np.where(fast[VALID].astype(bool)[:, None], mean, np.float32(0))
        return Predicted(features, members, mean)

    def _relative_spread(
        self, features: NDArray[np.float32], members: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        assert self.predictor is not None
        if self.predictor.labelled is not None:  # a single net, which has no spread
            return np.asarray(self.predictor.distance(features), np.float64)
        spread = self.predictor.spread_of(members)
        return _norm(spread if self.spread_weights is None else spread * self.spread_weights)

    def _bounded(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        bounds = self._obs_bounds
        return obs if bounds is None else bounds.clip(obs)

    @cached_property
    def _obs_bounds(self) -> Bounds | None:
        if self.obs_low is None or self.obs_high is None:
            return None
        return Bounds(self.obs_low, self.obs_high)

    @cached_property
    def _reward_bounds(self) -> Bounds | None:
        return None if self.reward_range is None else Bounds(*self.reward_range)

    def shifted(self, offsets: NDArray[np.float32]) -> "OffsetCorrection":
        """Return a correction that predicts ``offsets``, ``(K,)``, more wherever it is asked."""
        assert self.predictor is not None
        return replace(self, predictor=self.predictor.shifted(offsets))

    def for_rows(self, num_rows: int) -> "OffsetCorrection":
        """Return the same correction, quicker for exactly so many steps at a time."""
        if self.predictor is None:
            return self
        return replace(self, predictor=self.predictor.for_rows(num_rows))

    def without_correction(self) -> "OffsetCorrection":
        """Return the same layout with the predictor taken out."""
        return replace(self, predictor=None)


def default_layout(facts: PairFacts, *, residual: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the inputs and targets that a pair asks for.

    Args:
        facts: What the pair offers.
        residual: Whether its dynamics differ.
    """
    is_measured = facts.measurement_dim > 0 and facts.state_dim > 0
    if residual:
        targets = (MEASUREMENT, STATE) if is_measured else (OBS, REWARD, STATE)
        return (STATE, ACTION, MEASUREMENT if is_measured else OBS), targets
    if is_measured and facts.predictor_inputs_dim:
        return (PREDICTOR_INPUTS,), (MEASUREMENT,)
    if is_measured:
        return (NEXT_STATE, MEASUREMENT), (MEASUREMENT,)
    return (OBS,), (OBS, REWARD)


def _where_valid(fast: Columns, corrected: Columns) -> Columns:
    """Return corrected columns, those rows left alone that the fast simulator calls invalid."""
    if VALID not in fast or fast[VALID].all():
        return corrected
    valid = fast[VALID].astype(bool)
    kept = {name: column.copy() for name, column in corrected.items()}
    for name, column in kept.items():
        column[~valid] = fast[name][~valid]
    return kept


def _norm(rows: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(rows).sum(axis=1)), np.float64)


def _as_matrix(column: NDArray[Any], dtype: type = np.float32) -> NDArray[Any]:
    return column.reshape(len(column), -1).astype(dtype, copy=False)


def _one_hot(index: NDArray[Any], width: int) -> NDArray[np.float32]:
    return np.eye(width, dtype=np.float32)[index.astype(np.int64)]


def _check_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"`{field}` takes one or more of {', '.join(known)}; got {names}; "
            f"leave out {', '.join(map(repr, unknown)) or 'nothing, add one'}"
        )
