"""The trained pair as an ordinary Gymnasium environment, usable without Ray and by any library."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    PREV_OBS,
    REWARD,
    STATE,
    TERMINATED,
    TIME,
    VALID,
    Columns,
)
from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.measurements import MeasurementReader, measured_columns, told_validity
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.pair import EnvSpec, make_env
from rllib_offset.simulator_state import get_simulator_state, set_simulator_state

__all__ = ["CorrectedEnv", "save_correction"]

_FOLDER = "corrected_env"  # within a checkpoint
_META, _ARRAYS = "corrected_env.json", "corrected_env.npz"


class CorrectedEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The fast environment, corrected: an ordinary Gymnasium environment that needs no Ray.

    Args:
        env: The fast environment, with a flat observation (see :func:`rllib_offset.pair.make_env`).
        correction: The trained correction.

    Example:
        >>> fast = make_env("CartPole-v1")
        >>> layout = OffsetLayout(("obs",), ("obs", "reward"), 4, fast.action_space)
        >>> env = CorrectedEnv(fast, OffsetCorrection(layout))
        >>> env.reset(seed=1)[0].shape
        (4,)
    """

    @classmethod
    def from_checkpoint(
        cls, path: str | PathLike[str], env: gym.Env[Any, Any] | None = None
    ) -> "CorrectedEnv":
        """Load what :meth:`save` wrote, also from a checkpoint of a training run.  Needs no Ray.

        Args:
            path: The checkpoint's folder, or the folder that :meth:`save` was given.
            env: The fast environment; by default the one that was trained on is made again.

        Raises:
            ValueError: If nothing was saved there, or the environment cannot be made by name.
        """
        folder = Path(path) / _FOLDER if (Path(path) / _FOLDER).is_dir() else Path(path)
        if not (folder / _META).is_file():
            raise ValueError(
                f"{path} holds no corrected environment: no {_META}; give a checkpoint"
            )
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        if env is None:
            if meta["fast"] is None:
                raise ValueError(
                    "the fast environment was not given by name, so it cannot be made again; "
                    "pass it as `env`"
                )
            env = make_env(meta["fast"], meta["fast_config"])
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            return cls(env, _correction_of(meta, dict(arrays), env))

    def __init__(self, env: gym.Env[Any, Any], correction: OffsetCorrection) -> None:
        RecordConstructorArgs.__init__(self, correction=correction)  # so that its spec can be made
        gym.Wrapper.__init__(self, env)
        self.correction = correction
        self._reader = MeasurementReader.of(env)
        self._fast_obs: NDArray[np.float32] = np.zeros(0, np.float32)
        self._measurement: NDArray[Any] = np.zeros(correction.layout.measurement_dim)
        self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the fast environment and correct its first observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._fast_obs, self._time = obs, 0
        measured: Columns | None = None
        if self.correction.layout.corrects_measured_resets:
            measured = self._measured(info) | {STATE: get_simulator_state(self.env)[None]}
        return self.correction.reset_observations(obs[None], measured, self._reader)[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the fast environment and correct what it returned."""
        layout = self.correction.layout
        uses_state = layout.needs_state or layout.measurement_dim > 0
        state = get_simulator_state(self.env) if uses_state else np.zeros(0)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._time += 1
        fast: Columns = {
            PREV_OBS: self._fast_obs[None],
            OBS: obs[None],
            ACTION: np.asarray(action)[None],
            REWARD: np.array([reward], np.float32),
            TERMINATED: np.array([terminated]),
            TIME: np.array([self._time], np.float32),
            STATE: state[None],
        }
        if uses_state:
            fast[NEXT_STATE] = get_simulator_state(self.env)[None]
        fast |= self._measured(info)
        corrected = self.correction.steps(fast, self._reader)
        self._fast_obs = obs
        if layout.resynchronises:
            set_simulator_state(self.env, corrected[NEXT_STATE][0])
        return (
            corrected[OBS][0],
            float(corrected[REWARD][0]),
            bool(corrected[TERMINATED][0]),
            truncated,
            info,
        )

    def _measured(self, info: dict[str, Any]) -> Columns:
        told = {name: np.asarray(info[name])[None] for name in (MEASUREMENT, VALID) if name in info}
        if not self.correction.layout.measurement_dim:
            return told_validity(told, 1)
        columns = measured_columns(told, 1, self._measurement)
        self._measurement = columns[MEASUREMENT][0]
        return columns


def save_correction(
    path: str | PathLike[str],
    correction: OffsetCorrection,
    fast: EnvSpec,
    fast_config: dict[str, Any],
) -> Path:
    """Write a correction, and how its fast environment is made, into the folder ``path``.

    JSON and NumPy arrays only: nothing in it is ever unpickled.  A fast environment that was not
    given by name must be passed again when it is loaded.
    """
    folder = Path(path) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    layout, predictor = correction.layout, correction.predictor
    meta = {
        "fast": fast if isinstance(fast, str) else None,
        "fast_config": fast_config if isinstance(fast, str) else {},
        "inputs": layout.inputs,
        "targets": layout.targets,
        "obs_dim": layout.obs_dim,
        "state_dim": layout.state_dim,
        "measurement_dim": layout.measurement_dim,
        "predictor_inputs_dim": layout.predictor_inputs_dim,
        "measures_resets": layout.measures_resets,
        "reward_range": correction.reward_range,
        "pessimism": correction.pessimism,
        "flag_threshold": correction.flag_threshold,
        "num_layers": 0 if predictor is None else len(predictor.weights),
    }
    arrays: dict[str, NDArray[Any]] = {
        name: value
        for name in ("obs_low", "obs_high", "spread_weights")
        if (value := getattr(correction, name)) is not None
    }
    if predictor is not None:
        arrays |= {f"weight_{i}": weight for i, weight in enumerate(predictor.weights)}
        arrays |= {f"bias_{i}": bias for i, bias in enumerate(predictor.biases)}
        arrays |= {name: getattr(predictor, name) for name in ("input_mean", "input_gain")}
        arrays["output_mean"] = predictor.output_mean
    (folder / _META).write_text(json.dumps(meta, default=_plain), encoding="utf-8")
    np.savez(folder / _ARRAYS, **arrays)  # type: ignore[arg-type]
    return folder


def _correction_of(
    meta: dict[str, Any], arrays: dict[str, NDArray[Any]], env: gym.Env[Any, Any]
) -> OffsetCorrection:
    layout = OffsetLayout(
        tuple(meta["inputs"]),
        tuple(meta["targets"]),
        obs_dim=meta["obs_dim"],
        action_space=env.action_space,
        state_dim=meta["state_dim"],
        measurement_dim=meta["measurement_dim"],
        predictor_inputs_dim=meta.get("predictor_inputs_dim", 0),
        measures_resets=meta.get("measures_resets", False),
    )
    width = spaces.flatdim(env.observation_space)
    if width != layout.obs_dim:
        raise ValueError(
            f"the correction was learned for observations of {layout.obs_dim} values, "
            f"this environment has {width}; pass the fast environment it was trained on"
        )
    low_high = meta["reward_range"]
    return OffsetCorrection(
        layout,
        predictor=_predictor_of(meta["num_layers"], arrays),
        reward_range=None if low_high is None else (low_high[0], low_high[1]),
        obs_low=arrays.get("obs_low"),
        obs_high=arrays.get("obs_high"),
        pessimism=meta["pessimism"],
        spread_weights=arrays.get("spread_weights"),
        flag_threshold=meta["flag_threshold"],
    )


def _predictor_of(num_layers: int, arrays: dict[str, NDArray[Any]]) -> NumpyPredictor | None:
    if not num_layers:
        return None
    return NumpyPredictor(
        [arrays[f"weight_{i}"] for i in range(num_layers)],
        [arrays[f"bias_{i}"] for i in range(num_layers)],
        input_mean=arrays["input_mean"],
        input_std=np.asarray(1 / arrays["input_gain"], np.float32),
        output_mean=arrays["output_mean"],
        output_scale=np.ones_like(arrays["output_mean"]),  # in the weights already
    )


def _plain(value: Any) -> Any:
    """Return a NumPy value of an environment's config as JSON knows it."""
    return np.asarray(value).tolist()
