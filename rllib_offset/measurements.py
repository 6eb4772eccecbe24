"""What a pair's own code makes of a raw measurement: predictor inputs, observation, reward, end.

Arrays in, arrays out; knows neither Ray nor predictors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from rllib_offset.columns import ACTION, MEASUREMENT, OBS, REWARD, STATE, TERMINATED, VALID, Columns

__all__ = ["NO_READER", "MeasurementReader", "measured_columns", "told_validity", "which_tell"]

# `outcome(measurement, state, action) -> (obs, reward, terminated)`
Outcome = Callable[[NDArray[Any], NDArray[Any], Any], tuple[Any, Any, Any]]
# `predictor_inputs(measurement, state, action) -> what the offset of the measurement depends on`
PredictorInputs = Callable[[NDArray[Any], NDArray[Any], Any], NDArray[Any]]


@dataclass(frozen=True)
class MeasurementReader:
    """The functions of an environment that explain its ``info["measurement"]``.

    ``state`` is that before the step.  For a reset there was no step: ``action`` is then ``None``
    and ``state`` the one that the episode starts in.

    Args:
        outcome: ``(measurement, state, action) -> (obs, reward, terminated)``.
        predictor_inputs: ``(measurement, state, action)`` to the inputs of the offset predictor.
        takes_batches: Whether both are called with rows of steps, as those of a native vector
            environment are, and not step by step.
    """

    outcome: Outcome | None = None
    predictor_inputs: PredictorInputs | None = None
    takes_batches: bool = False

    @classmethod
    def of(cls, env: Any) -> "MeasurementReader":
        """Return the reader of an environment, or of the lanes of a vector environment."""
        base = env.unwrapped
        lanes = getattr(base, "envs", None)
        owner = base if lanes is None else lanes[0].unwrapped
        return cls(
            outcome=getattr(owner, "outcome", None),
            predictor_inputs=getattr(owner, "predictor_inputs", None),
            takes_batches=lanes is None and isinstance(base, VectorEnv),
        )

    def inputs(self, steps: Columns) -> NDArray[np.float32]:
        """Return the predictor's inputs on steps, ``(N, D)``; of resets where no action is."""
        assert self.predictor_inputs is not None
        actions = steps.get(ACTION)
        if self.takes_batches:
            inputs = self.predictor_inputs(steps[MEASUREMENT], steps[STATE], actions)
            return np.asarray(inputs, np.float32)
        rows = [self.predictor_inputs(*step) for step in _each(steps, actions)]
        return np.asarray(rows, np.float32).reshape(len(rows), -1)

    def outcomes(self, steps: Columns) -> Columns:
        """Return observation, reward and termination of steps; of resets where no action is."""
        assert self.outcome is not None
        actions = steps.get(ACTION)
        if self.takes_batches:
            obs, reward, terminated = self.outcome(steps[MEASUREMENT], steps[STATE], actions)
        else:
            rows = [self.outcome(*step) for step in _each(steps, actions)]
            obs, reward, terminated = zip(*rows, strict=True)
        return {
            OBS: np.asarray(obs, np.float32),
            REWARD: np.asarray(reward, np.float32),
            TERMINATED: np.asarray(terminated, bool),
        }

    def explains_reset(
        self, obs: NDArray[Any], measurement: NDArray[Any], state: NDArray[Any]
    ) -> bool:
        """Tell whether a reset's observation follows from its measurement, so can be corrected."""
        reset = {MEASUREMENT: measurement[None], STATE: state[None]}
        try:
            found = self.outcomes(reset)[OBS][0]
            if self.predictor_inputs is not None:
                self.inputs(reset)
        except Exception:  # a user's function that expects an action may raise whatever it likes
            return False
        return found.shape == np.shape(obs) and np.allclose(found, obs, atol=1e-5)


NO_READER = MeasurementReader()


def told_validity(infos: dict[str, Any], num_lanes: int) -> Columns:
    """Return whether the lanes' steps mean something, ``(N,)``; nothing if no lane speaks of it."""
    if VALID not in infos:
        return {}
    return {VALID: np.asarray(infos[VALID], bool) | ~which_tell(infos, VALID, num_lanes)}


def measured_columns(
    infos: dict[str, Any], num_lanes: int, earlier: NDArray[Any] | None
) -> Columns:
    """Return what lanes measured, ``(N, width)``, and whether their steps mean something, ``(N,)``.

    A lane that measured nothing is invalid and gets the measurement of another, as a pair's
    functions need not know what to make of zeros. Where nothing was ever measured, there is no such
    column, and one of validity only if a lane speaks of it.

    Args:
        infos: Of a vector environment.
        num_lanes: ``N``.
        earlier: A measurement, ``(width,)``; ``None`` where there was none yet.
    """
    columns = told_validity(infos, num_lanes)
    is_measured = which_tell(infos, MEASUREMENT, num_lanes)
    if not is_measured.any():
        if earlier is None:
            return columns
        return {MEASUREMENT: np.tile(earlier, (num_lanes, 1)), VALID: np.zeros(num_lanes, bool)}
    rows = np.asarray(infos[MEASUREMENT])
    if rows.dtype == object:  # lists, or None where a lane measured nothing
        known = [np.asarray(rows[lane]) for lane in np.flatnonzero(is_measured)]
        rows = np.zeros((num_lanes, *known[0].shape), known[0].dtype)
        rows[is_measured] = known
    rows = rows.reshape(num_lanes, -1)
    if not is_measured.all():
        rows = np.where(is_measured[:, None], rows, rows[is_measured.argmax()])
    return {MEASUREMENT: rows, VALID: columns.get(VALID, True) & is_measured}


def which_tell(infos: dict[str, Any], name: str, num_lanes: int) -> NDArray[np.bool_]:
    """Return which lanes have something of that name in their infos, ``(N,)``; Gymnasium's form."""
    if name not in infos:
        return np.zeros(num_lanes, bool)
    return np.asarray(infos.get(f"_{name}", np.ones(num_lanes)), bool)


def _each(steps: Columns, actions: NDArray[Any] | None) -> Any:
    taken = [None] * len(steps[STATE]) if actions is None else actions
    return zip(steps[MEASUREMENT], steps[STATE], taken, strict=True)
