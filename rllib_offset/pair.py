"""A pair of simulators: what a user supplies, and how its environments are made.

Knows nothing of Ray, replays or predictors.
"""

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs import registration
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, iterate
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray

__all__ = [
    "AnyVectorEnv",
    "Claim",
    "EnvPair",
    "EnvSpec",
    "LaneVectorEnv",
    "PairReport",
    "make_env",
    "make_vector_env",
]

AnyEnv = gym.Env[Any, Any]
AnyVectorEnv = VectorEnv[Any, Any, Any]
EnvSpec = str | Callable[[dict[str, Any]], AnyEnv]

_ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)


@dataclass(frozen=True)
class Claim:
    """One thing a pair was tested for; ``holds`` is None where it could not be told."""

    name: str
    holds: bool | None
    text: str


@dataclass(frozen=True)
class PairReport:
    """What :meth:`EnvPair.check` found; ``str()`` says it in plain words.

    Args:
        level: 0 trajectories can be replayed, 1 single steps too, 2 also the one-step residual.
        dynamics: Whether the same actions lead both simulators through the same states.
        divergence: Mean over the steps of the largest difference between the states (without state
            access: the observations), each component divided by its range; NaN if not measured.
        has_outcome: Whether the offset can be learned on ``info["measurement"]``.
        claims: Everything tested.
        problems: What must be mended before the pair can be used, one line each.
        missing: What the next level lacks.
        slow_steps: Slow steps that the check took.
    """

    level: int
    dynamics: Literal["same", "different", "unknown"]
    divergence: float
    has_outcome: bool
    claims: tuple[Claim, ...] = ()
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    slow_steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON knows it."""
        report = asdict(self)
        report["divergence"] = self.divergence if np.isfinite(self.divergence) else None
        return {k: list(v) if isinstance(v, tuple) else v for k, v in report.items()}

    def __str__(self) -> str:
        marks = {True: "yes", False: "NO ", None: "?  "}
        lines = [f"problem: {problem}" for problem in self.problems]
        lines += [f"[{marks[c.holds]}] {c.name}: {c.text}" for c in self.claims]
        if not self.problems:
            lines.append(f"level {self.level}: {_LEVELS[self.level]}")
        lines += [f"for level {self.level + 1}: {text}" for text in self.missing]
        lines.append(f"the check took {self.slow_steps} slow steps")
        return "\n".join(lines)


_LEVELS = (
    "whole trajectories can be replayed in the slow simulator",
    "single steps can be replayed in the slow simulator, from any visited state",
    "single steps can be replayed, and the fast simulator can follow the corrected state",
)


@dataclass(frozen=True)
class EnvPair:
    """The fast and the slow simulator of one thing.

    Args:
        fast: Gymnasium id (``"module:Id"`` imports the module first), dotted class path, or a
            callable taking the config.
        slow: The same for the slow simulator.
        fast_config: What the fast environment is made with.
        slow_config: What the slow environment is made with.

    Example:
        >>> pair = EnvPair("Pendulum-v1", "Pendulum-v1", slow_config={"g": 9.81})
        >>> pair.check(steps=5).level
        2
    """

    fast: EnvSpec
    slow: EnvSpec
    fast_config: Mapping[str, Any] = field(default_factory=dict)
    slow_config: Mapping[str, Any] = field(default_factory=dict)

    def make_fast(self) -> AnyEnv:
        """Make the fast environment."""
        return make_env(self.fast, self.fast_config)

    def make_slow(self) -> AnyEnv:
        """Make the slow environment."""
        return make_env(self.slow, self.slow_config)

    def make_slow_lanes(self, num_envs: int) -> AnyVectorEnv:
        """Make the slow environment's native vector form.

        Raises:
            ValueError: If it has none that resets lanes only when told to.
        """
        env = make_vector_env(self.slow, self.slow_config, num_envs)
        if isinstance(env, LaneVectorEnv):
            env.close()
            raise ValueError(
                f"replays side by side need a native vector form of {self.slow!r}; register "
                "one (`vector_entry_point`, autoreset mode DISABLED, `reset_mask`), or leave "
                "`num_envs_per_replay_worker` at 1"
            )
        return env

    def check(self, seed: int = 0, steps: int = 20) -> PairReport:
        """Test what the pair offers, in about ``2 * steps`` slow steps."""
        above = importlib.import_module("rllib_offset.pair_check")  # it replays, this file does not
        report: PairReport = above.check_pair(self, seed=seed, steps=steps)
        return report


def make_env(spec: EnvSpec, config: Mapping[str, Any] | None = None) -> AnyEnv:
    """Make an environment whose observations are flat ``float32`` vectors.

    Args:
        spec: Gymnasium id (``"module:Id"`` imports the module first), dotted class path such as
            ``"package.module.Class"``, or a callable.
        config: Keyword arguments of an id; the one argument of a class or callable, as in RLlib.

    Raises:
        ValueError: If the environment cannot be found, or its spaces are not supported.

    Example:
        >>> make_env("Taxi-v3").observation_space.shape
        (500,)
    """
    config = {} if config is None else config
    env = _make_from_id(spec, config) if _is_id(spec) else _creator(spec)(config)
    if not isinstance(env, gym.Env):
        raise ValueError(f"{spec!r} must make a gymnasium.Env, got {type(env).__name__}")
    if not isinstance(env.action_space, _ACTION_SPACES):
        raise ValueError(
            f"actions must be Box, Discrete or MultiDiscrete, got {env.action_space}; "
            f"wrap the environment in a gymnasium.ActionWrapper"
        )
    return env if _is_flat(env.observation_space) else _flattened(env)


def make_vector_env(
    spec: EnvSpec, config: Mapping[str, Any] | None = None, num_envs: int = 1
) -> AnyVectorEnv:
    """Make ``num_envs`` lanes that reset only when told to, each with a seed of its own.

    ``reset(seed=[...], options={"reset_mask": mask})`` resets the lanes in ``mask``.  The native
    vector form of an id is used if it works that way, else :class:`LaneVectorEnv`.  What a lane
    returns between the end of its episode and its reset means nothing.
    """
    if num_envs < 1:
        raise ValueError(f"`num_envs` must be >= 1, got {num_envs}")
    config = {} if config is None else config
    native = _make_native(spec, config, num_envs) if isinstance(spec, str) else None
    return native or LaneVectorEnv([lambda: make_env(spec, config)] * num_envs)


class LaneVectorEnv(SyncVectorEnv):
    """Environments side by side, none of which resets by itself.

    Unlike Gymnasium's own, it accepts a step while some lanes have ended, and leaves those alone.

    Attributes:
        latest_lane: The lane stepped last: the one that failed, if a step raises.
    """

    latest_lane: int

    def __init__(self, env_fns: Iterable[Callable[[], AnyEnv]]) -> None:
        super().__init__(list(env_fns), autoreset_mode=AutoresetMode.DISABLED)

    def keep_running(self, lanes: NDArray[np.bool_]) -> None:
        """Step exactly these lanes from now on, whatever their simulators say of their episodes."""
        self._autoreset_envs = ~lanes

    def step(  # type: ignore[override]  # Gymnasium leaves its own type variables open
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the lanes whose episode goes on; the others keep their last observation."""
        infos: dict[str, Any] = {}
        for i, action in enumerate(iterate(self.action_space, actions)):
            if self._autoreset_envs[i]:
                self._rewards[i] = 0.0
                continue
            self.latest_lane = i
            obs, reward, terminated, truncated, info = self.envs[i].step(action)
            self._env_obs[i], self._rewards[i] = obs, reward
            self._terminations[i], self._truncations[i] = terminated, truncated
            infos = self._add_info(infos, info, i)
        self._autoreset_envs = self._terminations | self._truncations
        self._observations = concatenate(
            self.single_observation_space, self._env_obs, self._observations
        )
        return (
            deepcopy(self._observations),
            self._rewards.copy(),
            self._terminations.copy(),
            self._truncations.copy(),
            infos,
        )


def _is_flat(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32


def _flattened(env: AnyEnv) -> AnyEnv:
    space = env.observation_space
    if not space.is_np_flattenable:
        raise ValueError(
            f"observations must flatten to a vector, got {space}; "
            f"wrap the environment in a gymnasium.ObservationWrapper"
        )
    box = spaces.flatten_space(space)
    assert isinstance(box, spaces.Box)
    with np.errstate(over="ignore"):  # a float64 bound without end becomes infinity
        low, high = box.low.astype(np.float32), box.high.astype(np.float32)
    return TransformObservation(
        env,
        lambda obs: np.asarray(spaces.flatten(space, obs), np.float32),
        spaces.Box(low, high, dtype=np.float32),
    )


def _is_id(spec: EnvSpec) -> bool:
    """Whether it goes to ``gymnasium.make``; a name with dots that is no id is a class path."""
    return isinstance(spec, str) and (":" in spec or "." not in spec or spec in gym.registry)


def _make_from_id(spec: Any, config: Mapping[str, Any]) -> AnyEnv:
    _find_registered(spec)
    # the checker looks at every step; `EnvPair.check` looks once
    return gym.make(spec, disable_env_checker=True, **config)


def _find_registered(spec: str) -> Any:
    """Return Gymnasium's own record of an id, importing the module before its colon."""
    module, _, env_id = spec.rpartition(":")
    if module:
        _import(module, spec)
    try:
        namespace, name, version = registration.parse_env_id(env_id)
        newest = registration.find_highest_version(namespace, name)
        env_id = registration.get_env_id(namespace, name, newest if version is None else version)
    except gym.error.Error:
        pass  # not even the form of an id: answered below
    if env_id not in gym.registry:
        raise ValueError(
            f"no environment is registered as {env_id!r}; {_nearest(env_id, gym.registry)}"
            "'module:Id' imports the module that registers it"
        )
    return gym.registry[env_id]


def _creator(spec: EnvSpec) -> Callable[[Any], AnyEnv]:
    if callable(spec):
        return spec
    if not isinstance(spec, str):
        raise ValueError(
            f"an environment is an id, a dotted class path or a callable, got {spec!r}"
        )
    module_name, _, name = spec.rpartition(".")
    module = _import(module_name, spec)
    found = getattr(module, name, None)
    if found is None:
        hint = _nearest(name, vars(module)) or "give an id or 'package.module.Class'"
        raise ValueError(f"{module_name!r} has no class {name!r}; {hint}")
    if not (isinstance(found, type) and issubclass(found, gym.Env)):  # a file must not call others
        raise ValueError(
            f"{spec!r} must be a subclass of gymnasium.Env, got {type(found).__name__}; "
            "a function that makes one is registered under an id (`gymnasium.register`)"
        )
    return found


def _import(module: str, spec: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{spec!r} needs the module {module!r}, got {type(error).__name__}: {error}; "
            "install it or mend the name"
        ) from error


def _nearest(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def _make_native(spec: str, config: Mapping[str, Any], num_envs: int) -> AnyVectorEnv | None:
    if not _is_id(spec):
        return None
    registered = _find_registered(spec)
    if registered.vector_entry_point is None or registered.additional_wrappers:
        return None
    try:
        env = gym.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **dict(config))
    except TypeError:  # an option that only the scalar form knows
        return None
    disabled = env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
    if disabled and _is_flat(env.single_observation_space):
        return env
    env.close()
    return None
