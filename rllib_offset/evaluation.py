"""Plays episodes with the agent of a checkpoint, and keeps what happened.

Needs no running Ray: only the environment runner of the checkpoint's algorithm is built, with its
connectors and its module, as it samples during training.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_offset.checkpoint_checks import UNREADABLE
from rllib_offset.pair import make_env
from rllib_offset.played_episodes import PlayedEpisode
from rllib_offset.user_errors import UserError, one_line

__all__ = ["Agent", "find_checkpoint", "load_agent"]

_CLASS_FILE = "class_and_ctor_args.pkl"
_MODULE = Path("learner_group", "learner", "rl_module", "default_policy")
_MAX_LANES = 16  # episodes side by side
_RENDERED_ENV = "rllib_offset_rendered_env"
_REFUSALS = (ValueError, TypeError, AttributeError, RuntimeError, ImportError, gym.error.Error)


@dataclass(frozen=True)
class Agent:
    """What a checkpoint holds: the name of its algorithm, its settings and where it lies."""

    algorithm: str
    config: Any
    path: Path

    @property
    def env(self) -> Any:
        """The environment it is evaluated in: the slow simulator, where it has one."""
        return self.config.env

    def play(
        self,
        *,
        env: str | None = None,
        env_config: Mapping[str, Any] | None = None,
        episodes: int | None = None,
        steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        renders: bool = False,
        on_episode: Callable[[int, PlayedEpisode], None] = lambda number, episode: None,
    ) -> list[PlayedEpisode]:
        """Play complete episodes, without exploration unless the settings say so.

        Args:
            env: Environment in place of the checkpoint's own.
            env_config: What it is made with.
            episodes: How many; the first limit that is reached counts.
            steps: Steps after which no other episode starts.
            settings: Settings of the algorithm in place of the checkpoint's.
            renders: Whether to keep pictures; the environment must know ``rgb_array``.
            on_episode: Called as soon as an episode has ended, with its number from 1.

        Raises:
            UserError: If the environment cannot be made, or does not fit the agent.
        """
        played: list[PlayedEpisode] = []

        def keep(*, episode: Any, env_runner: Any, **_: Any) -> None:
            if episodes is None or len(played) < episodes:
                frames = _recorder_of(env_runner).take(len(episode) + 1) if renders else ()
                played.append(_played(episode, frames))
                on_episode(len(played), played[-1])

        try:
            config = self._config_for(env, env_config, settings)
            one_by_one = renders or steps is not None  # how many are begun depends on the steps
            config.num_envs_per_env_runner = 1 if one_by_one else min(_MAX_LANES, episodes or 1)
            if renders:
                _register_rendered(config)
            config.callbacks_on_episode_end = keep
            runner = self._runner(config)
            _sample(runner, bool(config.explore), played, episodes, steps)
            runner.stop()
        except _REFUSALS as error:
            reason = one_line(error)
            if "size mismatch" in reason:  # torch lists the widths of every layer
                reason = f"the spaces of {env or self.env} are not those that it was trained with"
            raise UserError(f"cannot evaluate {self.path}: {reason}") from error
        return played

    def _config_for(
        self,
        env: str | None,
        env_config: Mapping[str, Any] | None,
        settings: Mapping[str, Any] | None,
    ) -> Any:
        config = self.config.copy(copy_frozen=False)
        if settings:
            config.update_from_dict(dict(settings))
        if env is not None:
            config.env, config.env_config = env, {}
        if env_config is not None:
            config.env_config = dict(env_config)
        if config.env is None:
            raise ValueError("the checkpoint names no environment; give one with --env")
        return config

    def _runner(self, config: Any) -> Any:
        from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

        runner = (config.env_runner_cls or SingleAgentEnvRunner)(
            config=config, worker_index=0, num_workers=0
        )
        runner.restore_from_path(self.path / "env_runner")
        runner.module.restore_from_path(self.path / _MODULE)
        return runner


def _sample(
    runner: Any,
    explores: bool,
    played: Sequence[PlayedEpisode],
    episodes: int | None,
    steps: int | None,
) -> None:
    """Play until a limit is reached; the runner's callback adds to ``played``."""
    if steps is None:
        runner.sample(num_episodes=episodes, explore=explores)
    elif hasattr(runner, "reference_returns"):  # ours: leaves no episode unfinished
        runner.sample_within(steps, episodes, explore=explores)
    else:
        while sum(len(episode.rewards) for episode in played) < steps and (
            episodes is None or len(played) < episodes
        ):
            runner.sample(num_episodes=1, explore=explores)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at ``path``, or the latest one of a trial's or experiment's folder.

    Raises:
        UserError: If there is none, or the folder holds several trials.
    """
    if not path.expanduser().is_dir():
        raise UserError(f"no such checkpoint: {path}")
    path = path.expanduser().resolve()
    if (path / _CLASS_FILE).is_file():
        return path
    found = sorted(path.glob("checkpoint_*")) or sorted(path.glob("*/checkpoint_*"))
    found = [folder for folder in found if (folder / _CLASS_FILE).is_file()]
    trials = {folder.parent for folder in found}
    if len(trials) > 1:
        first = min(trials)
        raise UserError(f"{path} holds {len(trials)} trials; give the folder of one, e.g. {first}")
    if not found:
        raise UserError(
            f"{path} holds no checkpoint of RLlib's new API stack; give the folder of a "
            "checkpoint, a trial or an experiment"
        )
    return found[-1]


def load_agent(path: Path) -> Agent:
    """Read the algorithm and the settings of a checkpoint; the algorithm is never asked for.

    Raises:
        UserError: If the checkpoint cannot be read, or holds several agents.
    """
    import rllib_offset

    rllib_offset.register()
    try:
        content = pickle.loads((path / _CLASS_FILE).read_bytes())
        (state, *_), _ = content["ctor_args_and_kwargs"]
        config = _evaluation_config(state)
    except UNREADABLE as error:
        raise UserError(f"cannot read the checkpoint {path}: {one_line(error)}") from error
    if not (path / _MODULE).is_dir():
        raise UserError(f"{path} holds no single agent, which is all that is evaluated here")
    return Agent(algorithm=content["class"].__name__, config=config, path=path)


def _evaluation_config(state: Any) -> Any:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    config = AlgorithmConfig.from_state(state) if isinstance(state, dict) else state
    config = config.copy(copy_frozen=False)
    explicit = config.evaluation_config or {}
    config.evaluation_config = {"explore": False, **explicit}
    evaluation = config.get_evaluation_config_object().copy(copy_frozen=False)
    evaluation.in_evaluation = True
    evaluation.num_env_runners = 0
    evaluation.callbacks_class = _no_callbacks()
    return evaluation


def _no_callbacks() -> Any:
    from ray.rllib.callbacks.callbacks import RLlibCallback

    return RLlibCallback


def _played(episode: Any, frames: Sequence[NDArray[np.uint8]]) -> PlayedEpisode:
    from ray.rllib.core.columns import Columns

    custom = episode.custom_data
    actions = custom.get("env_actions")
    if actions is None and Columns.ACTIONS_FOR_ENV in episode.extra_model_outputs:
        actions = episode.get_extra_model_outputs(Columns.ACTIONS_FOR_ENV)
    if actions is None:
        actions = episode.get_actions()
    seed = custom.get("seed")
    return PlayedEpisode(
        obs=np.asarray(episode.get_observations()),
        actions=np.asarray(actions),
        rewards=np.asarray(episode.get_rewards()),
        terminated=bool(episode.is_terminated),
        truncated=bool(episode.is_truncated),
        seed=None if seed is None else int(seed),
        frames=tuple(frames),
    )


# Pictures.


class _FrameRecorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps a picture of every state since the last reset."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._frames: list[Any] = []
        self._previous: list[Any] = []

    def reset(self, **kwargs: Any) -> Any:
        result = self.env.reset(**kwargs)
        self._previous, self._frames = self._frames, [self.env.render()]
        return result

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self._frames.append(self.env.render())
        return result

    def take(self, number: int) -> list[Any]:
        """Return the pictures of the episode that has just ended, which has ``number`` of them."""
        frames = self._frames if len(self._frames) >= number else self._previous
        return frames[:number]


def _recorder_of(runner: Any) -> _FrameRecorder:
    env = runner.env.unwrapped.envs[0]
    while not isinstance(env, _FrameRecorder):
        env = env.env
    return env


def _register_rendered(config: Any) -> None:
    from ray.tune.registry import ENV_CREATOR, _global_registry, register_env

    known = isinstance(config.env, str) and _global_registry.contains(ENV_CREATOR, config.env)
    spec = _global_registry.get(ENV_CREATOR, config.env) if known else config.env

    def create(env_config: Mapping[str, Any]) -> gym.Env[Any, Any]:
        env = make_env(spec, {**env_config, "render_mode": "rgb_array"})
        if env.render_mode != "rgb_array":
            raise ValueError(f"{spec!r} does not render as rgb_array; leave out --render")
        return _FrameRecorder(env)

    register_env(_RENDERED_ENV, create)
    config.env = _RENDERED_ENV
