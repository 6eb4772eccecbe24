"""What a trained agent does and what its predictor says, as arrays that can be drawn and saved.

Works on a live algorithm and on a checkpoint, without a Ray cluster: the environment runner is the
one that trained.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rllib_offset.columns import ACTION, OBS, PREV_OBS, REWARD, STATE, TIME, Columns
from rllib_offset.correction import OffsetCorrection, OffsetLayout
from rllib_offset.env_runner import OffsetBroadcast, OffsetEnvRunner
from rllib_offset.envs.point_mass import PointMassModel
from rllib_offset.estimator import OffsetEstimator
from rllib_offset.pair import EnvPair, EnvSpec, make_env
from rllib_offset.pair_facts import probe_pair
from rllib_offset.predictor import torch_threads
from rllib_offset.sampling import Trajectory
from rllib_offset.seeded_env_runner import EVALUATION_SEED, registered_env

__all__ = [
    "AgentView",
    "greedy_trajectories",
    "restored_pair",
    "restored_runner",
    "target_names",
    "view_of_algorithm",
    "view_of_checkpoint",
]

NUM_PATHS = 5
GRID_POINTS = 61
MAX_LABELS = 2000

Floats = NDArray[Any]
_NO_LABELS = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class AgentView:
    """Paths of an agent and outputs of its predictor; empty arrays where there is nothing to show.

    Shapes: ``E`` episodes of at most ``T`` steps, ``G`` points per side of a grid over the square,
    ``N`` labels (an even selection), ``K`` corrected values.

    Args:
        paths: Positions, ``(E, T + 1, 2)``, NaN after an episode's end; two-dimensional pairs only.
        path_seeds: Seed of each episode, ``(E,)``.
        trained_map: Rewards of the simulator that the agent trained on, ``(G, G)``, rows along y.
        slow_map: Rewards of the slow simulator, ``(G, G)``.
        target: Where the slow reward is highest, ``(2,)``.
        predicted: Predicted offset over the square, ``(G, G, K)``.
        true: Slow minus fast over the square, ``(G, G, K)``.
        label_positions: Where the labels lie, ``(N, 2)``.
        label_offsets: Measured offsets, ``(N, K)``, NaN where not measured.
        label_predictions: Predicted offsets of the same labels, ``(N, K)``.
        label_is_held_out: Whether a label was kept out of the fit, ``(N,)``.
        target_names: Name of each corrected value, ``(K,)``.
    """

    paths: Floats = field(default_factory=lambda: np.zeros((0, 0, 2)))
    path_seeds: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    trained_map: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    slow_map: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    target: Floats = field(default_factory=lambda: np.zeros(0))
    predicted: Floats = field(default_factory=lambda: np.zeros((0, 0, 0)))
    true: Floats = field(default_factory=lambda: np.zeros((0, 0, 0)))
    label_positions: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    label_offsets: Floats = field(default_factory=lambda: _NO_LABELS)
    label_predictions: Floats = field(default_factory=lambda: _NO_LABELS)
    label_is_held_out: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    target_names: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, "<U1"))

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a path nor a label to show."""
        return not len(self.paths) and not len(self.label_offsets)

    @property
    def has_offset_map(self) -> bool:
        """Whether predicted and true offset are known over the square."""
        return self.predicted.size > 0 and self.predicted.shape == self.true.shape

    def save(self, path: Path) -> None:
        """Write everything to an ``.npz`` file."""
        np.savez_compressed(path, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "AgentView":
        """Read what :meth:`save` wrote; arrays that an older file lacks stay empty."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{i.name: arrays[i.name] for i in fields(cls) if i.name in arrays})


def view_of_algorithm(algorithm: Any, *, num_paths: int = NUM_PATHS) -> AgentView:
    """Look at a live algorithm; takes no slow step of a pair.

    Args:
        algorithm: Any algorithm whose environment runner is ours.
        num_paths: Episodes rolled out, in the simulator that it trains on.
    """
    estimator: OffsetEstimator | None = getattr(algorithm, "estimator", None)

    def roll_out(seeds: list[int]) -> list[Trajectory]:
        rolled: list[Trajectory] = _on_a_runner(
            algorithm, lambda runner: greedy_trajectories(runner, seeds)
        )
        return rolled

    return _view(algorithm.config, estimator, roll_out, num_paths)


def view_of_checkpoint(checkpoint: Path, *, num_paths: int = NUM_PATHS) -> AgentView:
    """Look at a trained agent in a checkpoint, without starting Ray."""
    config, estimator = _restored_config(checkpoint), _restored_estimator(checkpoint)

    def roll_out(seeds: list[int]) -> list[Trajectory]:
        return greedy_trajectories(restored_runner(checkpoint, "training"), seeds)

    return _view(config, estimator, roll_out, num_paths)


def greedy_trajectories(runner: Any, seeds: list[int]) -> list[Trajectory]:
    """Roll the greedy policy out, one episode per seed, in the order of the seeds.

    Counts nowhere, draws nothing and asks for no labels.
    """
    with torch_threads():
        rolled = runner._roll_out(iter(seeds), None, len(seeds), explore=False)
        trajectories = [trajectory for together in rolled for trajectory in together]
    return sorted(trajectories, key=lambda trajectory: trajectory.ordinal)


def restored_runner(
    checkpoint: Path,
    simulator: Literal["training", "fast", "slow"] = "training",
    *,
    lanes: int | None = None,
    env_config: Mapping[str, Any] | None = None,
) -> Any:
    """Build the environment runner of a checkpoint, with its policy and its correction.

    Args:
        checkpoint: A checkpoint of A2C, OffsetA2C or OffsetPPO.
        simulator: ``"training"`` is what the agent trained on (fast + offset of a pair), ``"fast"``
            leaves the offset out, ``"slow"`` is the slow simulator.
        lanes: Episodes side by side; by default as many as in training.
        env_config: Arguments of the environment that differ from those in training.

    Raises:
        ValueError: If the folder is no checkpoint, or has no slow simulator and one is asked for.
    """
    from ray.rllib.core.rl_module.rl_module import RLModule

    config = _restored_config(checkpoint)
    if simulator == "slow":
        if getattr(config, "slow_env", None) is None:
            raise ValueError(
                f"{checkpoint} is of {config.algo_class.__name__}, which has no slow simulator; "
                "give a checkpoint of OffsetA2C or OffsetPPO"
            )
        config.env, config.env_config = config.slow_env, dict(config.slow_env_config)
    config.correct = simulator == "training"
    config.env_config = {**config.env_config, **(env_config or {})}
    config.num_envs_per_env_runner = lanes or config.num_envs_per_env_runner
    runner = OffsetEnvRunner(config=config, worker_index=0, num_workers=0)
    policies = checkpoint.absolute() / "learner_group" / "learner" / "rl_module"
    runner.module = RLModule.from_checkpoint(policies / "default_policy")
    runner.module.eval()
    estimator = _restored_estimator(checkpoint) if config.correct else None
    if estimator is not None:
        runner.set_offset(OffsetBroadcast(version=0, correction=estimator.correction()))
    return runner


def restored_pair(checkpoint: Path) -> EnvPair:
    """Return the two simulators that a checkpoint of OffsetA2C or OffsetPPO was trained with.

    Raises:
        ValueError: If the folder is no such checkpoint.
    """
    config = _restored_config(checkpoint)
    if getattr(config, "slow_env", None) is None:
        raise ValueError(
            f"{checkpoint} is of {config.algo_class.__name__}, which has no slow simulator; "
            "give a checkpoint of OffsetA2C or OffsetPPO"
        )
    pair: EnvPair = config.pair()
    return pair


def target_names(layout: OffsetLayout) -> list[str]:
    """Name the corrected values: ``obs[0]``, ``obs[1]``, ``reward``.

    Example:
        >>> from gymnasium.spaces import Discrete
        >>> target_names(OffsetLayout(("obs",), ("obs", "reward"), 2, Discrete(2)))
        ['obs[0]', 'obs[1]', 'reward']
    """
    parts = layout.split(np.zeros((1, layout.output_dim), np.float32))
    return [
        name if part.shape[1] == 1 else f"{name}[{index}]"
        for name, part in parts.items()
        for index in range(part.shape[1])
    ]


# From a checkpoint.


def _restored_config(checkpoint: Path) -> Any:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    import rllib_offset

    rllib_offset.register()
    state = _unpickled(checkpoint, "class_and_ctor_args.pkl")
    arguments, _ = state["ctor_args_and_kwargs"]
    return AlgorithmConfig.from_state(arguments[0])


def _restored_estimator(checkpoint: Path) -> OffsetEstimator | None:
    state = _unpickled(checkpoint, "algorithm_state.pkl").get("offset")
    if state is None:
        return None
    config = _restored_config(checkpoint)
    estimator: OffsetEstimator = config.offset_estimator(
        probe_pair(config.pair()), residual=state["residual"]
    )
    estimator.set_state(state["estimator"])
    return estimator


def _unpickled(checkpoint: Path, name: str) -> Any:
    try:
        with (checkpoint / name).open("rb") as file:
            return pickle.load(file)
    except FileNotFoundError:
        raise ValueError(
            f"{checkpoint} is no checkpoint of an algorithm (it has no {name}); "
            "give a folder such as .../checkpoint_000000"
        ) from None


# The view.


def _view(
    config: Any,
    estimator: OffsetEstimator | None,
    roll_out: Callable[[list[int]], list[Trajectory]],
    num_paths: int,
) -> AgentView:
    trained = _point_mass(config.env, config.env_config)
    parts: dict[str, Any] = {}
    if trained is not None:
        parts |= _maps(config, trained) | _paths(roll_out, num_paths)
    if estimator is not None and estimator.has_labels:
        parts |= _labels(estimator, is_square=trained is not None)
        if trained is not None:
            parts |= _offset_map(config, estimator.correction(), trained)
    return AgentView(**parts)


def _point_mass(env: EnvSpec | None, env_config: Mapping[str, Any]) -> PointMassModel | None:
    """The model behind a two-dimensional environment, None for any other."""
    if env is None:
        return None
    made = make_env(registered_env(env), env_config)
    try:
        model = getattr(made.unwrapped, "model", None)
        return model if isinstance(model, PointMassModel) else None
    finally:
        made.close()  # type: ignore[no-untyped-call]


def _slow_model(config: Any, trained: PointMassModel) -> PointMassModel:
    """The slow side: of the pair, or what a plain algorithm is evaluated in."""
    evaluation = config.evaluation_config or {}
    for env, env_config in (
        (getattr(config, "slow_env", None), getattr(config, "slow_env_config", {})),
        (evaluation.get("env"), evaluation.get("env_config", {})),
    ):
        model = _point_mass(env, env_config)
        if model is not None:
            return model
    return trained


def _grid() -> Floats:
    line = np.linspace(-1.0, 1.0, GRID_POINTS)
    return np.stack(np.meshgrid(line, line), axis=-1)


def _maps(config: Any, trained: PointMassModel) -> dict[str, Any]:
    grid, slow = _grid(), _slow_model(config, trained)
    return {
        "trained_map": trained.reward_map(grid),
        "slow_map": slow.reward_map(grid),
        "target": np.array(slow.target, np.float64),
    }


def _paths(roll_out: Callable[[list[int]], list[Trajectory]], num_paths: int) -> dict[str, Any]:
    seeds = list(range(EVALUATION_SEED, EVALUATION_SEED + num_paths))
    trajectories = roll_out(seeds)
    longest = max(len(trajectory.rewards) for trajectory in trajectories)
    paths = np.full((len(trajectories), longest + 1, 2), np.nan, np.float32)
    for path, trajectory in zip(paths, trajectories, strict=True):
        fast = trajectory.fast  # what the simulator returned: where the point really was
        steps = len(trajectory.rewards)
        path[0], path[1 : steps + 1] = fast[PREV_OBS][0, :2], fast[OBS][:, :2]
    return {"paths": paths, "path_seeds": np.array(seeds, np.int64)}


def _labels(estimator: OffsetEstimator, *, is_square: bool) -> dict[str, Any]:
    buffer, layout = estimator.trainer.buffer, estimator.layout
    sides = [buffer.train(), buffer.holdout()]
    shares = (MAX_LABELS - MAX_LABELS // 4, MAX_LABELS // 4)
    chosen = [
        np.linspace(0, len(inputs) - 1, min(len(inputs), share)).astype(np.int64)
        for (inputs, _), share in zip(sides, shares, strict=True)
    ]
    inputs = np.concatenate([side[0][rows] for side, rows in zip(sides, chosen, strict=True)])
    offsets = np.concatenate([side[1][rows] for side, rows in zip(sides, chosen, strict=True)])
    predictor = estimator.correction().predictor
    predicted = np.zeros_like(offsets) if predictor is None else predictor(inputs)
    parts = {
        "label_offsets": offsets,
        "label_predictions": predicted,
        "label_is_held_out": np.repeat([False, True], [len(rows) for rows in chosen]),
        "target_names": np.array(target_names(layout)),
    }
    first = _first_column(layout)
    if is_square and first is not None:
        parts["label_positions"] = inputs[:, first : first + 2]
    return parts


def _first_column(layout: OffsetLayout) -> int | None:
    """Where the position stands among the predictor's inputs: every kind of them starts with it."""
    if layout.inputs[0] in (OBS, PREV_OBS, STATE):
        return 0
    return None


def _offset_map(config: Any, correction: OffsetCorrection, fast: PointMassModel) -> dict[str, Any]:
    """Predicted and true offset at rest over the square, where only position decides."""
    layout, slow = correction.layout, _slow_model(config, fast)
    if correction.predictor is None or not set(layout.inputs) <= {OBS, STATE, TIME}:
        return {}
    if not set(layout.targets) <= {OBS, REWARD}:
        return {}
    positions = _grid().reshape(-1, 2)
    columns = [_at_rest(model, positions) for model in (slow, fast)]
    shape = (GRID_POINTS, GRID_POINTS, layout.output_dim)
    predicted = correction.predictor(layout.features(columns[1]))
    return {
        "predicted": predicted.reshape(shape),
        "true": layout.offsets(*columns).reshape(shape),
    }


def _at_rest(model: PointMassModel, positions: Floats) -> Columns:
    rewards = model.reward_map(positions.astype(np.float64))
    return {
        OBS: model.observe(positions.astype(np.float64), rewards),
        REWARD: rewards.astype(np.float32),
        STATE: positions,
        TIME: np.zeros(len(positions), np.float32),
        ACTION: np.zeros_like(positions),
    }


def _on_a_runner(algorithm: Any, function: Callable[[Any], Any]) -> Any:
    runner = algorithm.env_runner
    if runner is not None and runner.env is not None:
        return function(runner)
    ids = algorithm.env_runner_group.healthy_env_runner_ids()[:1]
    answers = algorithm.env_runner_group.foreach_env_runner(
        function, remote_worker_ids=ids, local_env_runner=False
    )
    return answers[0]
