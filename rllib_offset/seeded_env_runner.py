"""Vectorised sampling of complete episodes, each seeded, so that each can be replayed.

A sample is a pure function of (weights, runner index): every random draw comes from one seed
sequence, and global generators are left as they were found.  Hooks let a subclass see and change
each step; :mod:`rllib_offset.env_runner` corrects it.
"""

import logging
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns as ModuleColumns
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    EPISODE_DURATION_SEC_MEAN,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    WEIGHTS_SEQ_NO,
)
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_offset import metrics
from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    OBS,
    PREV_OBS,
    REWARD,
    TERMINATED,
    TIME,
    Columns,
    slice_columns,
)
from rllib_offset.measurements import MeasurementReader, measured_columns, told_validity
from rllib_offset.pair import EnvSpec, LaneVectorEnv, make_vector_env
from rllib_offset.policy import SamplingPolicy, env_actions_of
from rllib_offset.predictor import torch_threads
from rllib_offset.quick_logger import QuickLoggerMixin
from rllib_offset.sampling import Lanes, Recorder, Trajectory

__all__ = [
    "EVALUATION_SEED",
    "SeededEnvRunner",
    "evaluation_seeds",
    "one_of",
    "registered_env",
    "seeded_torch",
]

EVALUATION_SEED = (
    10_000  # episode k of an evaluation starts from this seed plus k, whatever is evaluated
)

_ENDLESS_TICKS = 50_000  # without any lane's end; twice the length of the longest Atari games

_ONE = np.ones((), np.float32)  # a plain 1 costs twice as much

# A Learner's module, the runner's, and the weights of the latter beside those of the former.
_SharedWeights = tuple[Any, Any, list[tuple[torch.Tensor, torch.Tensor]]]

logger = logging.getLogger(__name__)


class SeededEnvRunner(QuickLoggerMixin, SingleAgentEnvRunner):
    """RLlib environment runner that samples complete, individually seeded episodes.

    Lanes run side by side and are stepped together; a lane whose episode has ended starts another
    while the sample wants more, and rests otherwise.  Episodes end only by themselves, so every one
    can be replayed from its seed and its actions.  Differs from RLlib's runner in that connectors
    between environment and module are not applied (``validate()`` of the algorithms refuses them),
    and ``on_episode_start`` and ``on_episode_step`` are not called: an episode object is built
    once, when the episode has ended.
    """

    env: Any
    _prepared: SamplingPolicy | None = None
    _shared: _SharedWeights | None = None

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            self.env.close()
        spec = registered_env(self.config.env)
        self.num_envs = self.config.num_envs_per_env_runner
        self.env = make_vector_env(spec, dict(self.config.env_config), self.num_envs)
        self.env.reset(seed=list(range(self.num_envs)))
        self._env_actions = env_actions_of(
            self.env.single_action_space,
            is_normalized=self.config.normalize_actions,
            is_clipped=self.config.clip_actions,
        )
        self._horizon = _time_limit(self.env)
        learner = self.config.learner_class
        has_own_pieces = self.config._learner_connector is not None  # which may read anything
        self._tells_likelihoods = has_own_pieces or getattr(learner, "reads_likelihoods", True)
        self._reader = MeasurementReader.of(self.env)
        self._measurement: NDArray[Any] | None = None  # the first one
        self._ended: Trajectory | None = None
        self._ordinal = 0
        self._sampled_version: int | None = None
        self._entropy = self.config.seed if self.config.seed is not None else _fresh_entropy()

    @override(SingleAgentEnvRunner)
    def make_module(self) -> None:
        super().make_module()
        if self.module is not None:
            self.module.eval()

    @override(EnvRunner)
    def sample(self, **kwargs: Any) -> list[SingleAgentEpisode]:
        """Sample complete episodes; by default this runner's share of a training batch."""
        if kwargs.get("num_timesteps") is None and kwargs.get("num_episodes") is None:
            share = self.config.total_train_batch_size / max(1, self.config.num_env_runners)
            kwargs["num_timesteps"] = math.ceil(share)
        episodes: list[SingleAgentEpisode] = super().sample(**kwargs)
        return episodes

    @override(SingleAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        started_s, episodes = time.perf_counter(), []
        rng = self._sample_generator()
        self._before_sample(num_timesteps, rng)
        with seeded_torch(int(rng.integers(2**31))):
            for together in self._roll_out(
                self._episode_seeds(rng), num_timesteps, num_episodes, explore, random_actions
            ):
                if explore and self._tells_likelihoods:
                    together = self._with_likelihoods(together)
                for trajectory in together:
                    episodes.append(self._to_episode(trajectory))
                    self._end_episode(episodes[-1], trajectory)
        self._after_sample()
        num_steps = sum(len(episode) for episode in episodes)
        self._done_episodes_for_metrics.extend(episodes)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=num_steps)
        self._increase_sampled_metrics(num_steps, len(episodes))
        sampling_s = time.perf_counter() - started_s
        self.metrics.log_value(metrics.SAMPLING_TIME_S, sampling_s, window=1)
        return episodes

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> Any:
        """Return what was sampled, in figures; all episodes since the last call are logged at once.

        One by one, as RLlib does, costs nine calls for each.
        """
        most = self.config.metrics_num_episodes_for_smoothing / max(1, self.config.num_env_runners)
        episodes = self._done_episodes_for_metrics[-max(1, math.ceil(most)) :]
        self._done_episodes_for_metrics.clear()
        self._ongoing_episodes_for_metrics.clear()  # the callback at an episode's end adds to it
        if episodes:
            lengths = [len(episode) for episode in episodes]
            returns = [float(episode.get_return()) for episode in episodes]
            durations_s = [episode.get_duration_s() for episode in episodes]
            mean, log = statistics.fmean, partial(self.metrics.log_value, window=1)
            log(EPISODE_LEN_MEAN, mean(lengths))
            log(EPISODE_RETURN_MEAN, mean(returns))
            log(EPISODE_DURATION_SEC_MEAN, mean(durations_s))
            log(("agent_episode_return_mean", DEFAULT_AGENT_ID), mean(returns))
            log(("module_episode_return_mean", DEFAULT_MODULE_ID), mean(returns))
            log(EPISODE_LEN_MIN, min(lengths), reduce="min")
            log(EPISODE_RETURN_MIN, min(returns), reduce="min")
            log(EPISODE_LEN_MAX, max(lengths), reduce="max")
            log(EPISODE_RETURN_MAX, max(returns), reduce="max")
        return self.metrics.reduce()

    def sample_within(
        self, num_timesteps: int, num_episodes: int | None, *, explore: bool
    ) -> list[SingleAgentEpisode]:
        """Sample complete episodes until either limit is reached; RLlib takes only one of them."""
        return self._sample(num_timesteps=num_timesteps, num_episodes=num_episodes, explore=explore)

    def take_weights(self, module: Any, version: int) -> None:
        """Copy the weights of a Learner's module in this process, number ``version``.

        What RLlib's ``set_state`` does with a copy of them as arrays, at a tenth of its time; a
        module that makes or takes its state in its own way is asked to.
        """
        if not (_has_plain_state(module.unwrapped()) and _has_plain_state(self.module)):
            state = {DEFAULT_MODULE_ID: module.get_state(inference_only=True)}
            self.set_state({COMPONENT_RL_MODULE: state, WEIGHTS_SEQ_NO: version})
            return
        if self._shared is None or self._shared[:2] != (module, self.module):
            known = module.unwrapped().state_dict()
            pairs = [(own, known[name]) for name, own in self.module.state_dict().items()]
            self._shared = (module, self.module, pairs)
        with torch.no_grad():
            for own, weights in self._shared[2]:
                own.copy_(weights)
        self._weights_seq_no = version

    # --- hooks ---

    def _before_sample(self, num_timesteps: int | None, rng: np.random.Generator) -> None:
        """Prepare a sample."""

    def _after_sample(self) -> None:
        """Finish a sample."""

    def _correct_resets(
        self, obs: NDArray[np.float32], measured: Columns, lanes: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return what the agent sees of the reset observations ``(B, D)`` of ``lanes``."""
        return obs

    def _correct_steps(self, fast: Columns, running: NDArray[np.bool_]) -> Columns:
        """Return what the agent sees of steps: columns obs, reward, terminated."""
        return fast

    def _before_step(self, fast: Columns, running: NDArray[np.bool_]) -> None:
        """Look at the simulators before a step; ``fast`` has observations and actions."""

    def _reset(self, starting: NDArray[np.bool_], lanes: Lanes) -> Any:
        """Reset the lanes that are ``starting``."""
        return self.env.reset(seed=lanes.seeds.tolist(), options={"reset_mask": starting})

    def _step(self, actions: NDArray[Any], lanes: Lanes) -> Any:
        """Step the environment; ``lanes`` tell of the episodes that do."""
        return self.env.step(actions)

    def _end_episode(self, episode: SingleAgentEpisode, trajectory: Trajectory) -> None:
        self._ended = trajectory
        self._ongoing_episodes[trajectory.lane] = episode
        self._make_on_episode_callback("on_episode_end", trajectory.lane, self._ongoing_episodes)

    def reference_returns(self, seeds: list[int]) -> tuple[Any, Any] | None:
        """Return the environment's random and optimal return per seed, if it knows them."""
        known = getattr(one_of(self.env), "reference_returns", None)
        return None if known is None else known(seeds)

    # --- seeds ---

    def _seed_sequence(self, *words: int) -> np.random.SeedSequence:
        index = self.worker_index or 0
        return np.random.SeedSequence(
            [self._entropy, index, int(self.config.in_evaluation), self._weights_seq_no, *words]
        )

    def _sample_generator(self) -> np.random.Generator:
        if self._sampled_version != self._weights_seq_no:
            self._sampled_version, self._ordinal = self._weights_seq_no, 0
        self._ordinal += 1
        return np.random.default_rng(self._seed_sequence(self._ordinal))

    def _episode_seeds(self, rng: np.random.Generator) -> Iterator[int]:
        if self.config.in_evaluation:  # the same episodes every time, shared out over the runners
            first, stride = max(0, (self.worker_index or 0) - 1), max(1, self.num_workers)
            while True:
                yield EVALUATION_SEED + first
                first += stride
        while True:
            yield int(rng.integers(2**31))

    # --- the loop ---

    def _roll_out(
        self,
        seeds: Iterator[int],
        num_timesteps: int | None,
        num_episodes: int | None,
        explore: bool,
        random_actions: bool = False,
    ) -> Iterator[list[Trajectory]]:
        """Run episodes until enough have been started; yield those that ended at the same tick.

        Enough is whichever limit is reached first.
        """
        most_steps = math.inf if num_timesteps is None else num_timesteps
        env, lanes = self.env, Lanes(self.num_envs)
        recorder = Recorder(self.num_envs, self._horizon or 128)
        width = spaces.flatdim(env.single_observation_space)
        obs: NDArray[Any] = np.zeros((self.num_envs, width), np.float32)
        fast_obs, num_steps, tick, last_end = obs.copy(), 0, 0, 0
        policy = None if self.module is None else self._policy.for_rows(self.num_envs)
        while True:
            wanted = self.num_envs if num_episodes is None else num_episodes - lanes.num_started
            if num_steps >= most_steps:
                wanted = 0
            if wanted and lanes.num_running < self.num_envs:
                starting = lanes.start(wanted, tick, seeds)
                where = np.flatnonzero(starting)
                resets, infos = self._reset(starting, lanes)
                fast_obs[where] = resets[where]
                measured = slice_columns(self._measured(infos), where)
                obs[where] = self._correct_resets(fast_obs[where], measured, where)
            if not lanes.num_running:
                return
            actions, env_actions, outputs = self._act(policy, obs, explore, random_actions)
            lanes.times += _ONE
            fast: Columns = {PREV_OBS: fast_obs, ACTION: env_actions, TIME: lanes.times}
            self._before_step(fast, lanes.running)
            if isinstance(env, LaneVectorEnv):
                env.keep_running(lanes.running)
            raw_obs, rewards, terminated, truncated, infos = self._step(env_actions, lanes)
            fast |= {OBS: raw_obs, REWARD: rewards.astype(np.float32), TERMINATED: terminated}
            fast |= self._measured(infos)
            seen = self._correct_steps(fast, lanes.running)
            recorder.put(
                tick,
                fast=fast,
                seen={PREV_OBS: obs, OBS: seen[OBS], REWARD: seen[REWARD], ACTION: actions},
                outputs=outputs,
            )
            num_steps += lanes.num_running
            tick += 1
            obs, fast_obs = seen[OBS].copy(), raw_obs.copy()
            ended = lanes.running & (seen[TERMINATED] | truncated)
            if tick - last_end == _ENDLESS_TICKS:
                _warn_of_endless_episodes(self.config.env)
            if np.count_nonzero(ended):  # `any` costs ten times as much
                last_end = tick
                yield [
                    recorder.trajectory(
                        terminated=bool(seen[TERMINATED][episode["lane"]]),
                        truncated=not seen[TERMINATED][episode["lane"]],
                        **episode,
                    )
                    for episode in lanes.end(ended, tick)
                ]

    def _measured(self, infos: dict[str, Any]) -> Columns:
        """Return what the lanes measured, and whether their steps mean something.

        A measurement that no ``outcome`` explains is some other thing of that name.
        """
        if self._reader.outcome is None:
            return told_validity(infos, self.num_envs)
        columns = measured_columns(infos, self.num_envs, self._measurement)
        if MEASUREMENT in columns and self._measurement is None:
            self._measurement = columns[MEASUREMENT][0].copy()
        return columns

    def _act(
        self,
        policy: SamplingPolicy | None,
        obs: NDArray[np.float32],
        explore: bool,
        random_actions: bool,
    ) -> tuple[NDArray[Any], NDArray[Any], Columns]:
        """Return the policy's actions, the environment's, and what the Learner needs besides."""
        if random_actions or policy is None:
            draws = torch.randint(2**31, (1,))
            self.env.action_space.seed(int(draws))
            actions = self.env.action_space.sample()
            return actions, actions, {}
        actions, outputs = policy.act(obs, explore=explore)
        return actions, self._env_actions(actions), outputs

    @property
    def _policy(self) -> SamplingPolicy:
        """The module, prepared for sampling; another one if the module is another."""
        if self._prepared is None or self._prepared.module is not self.module:
            self._prepared = SamplingPolicy(self.module, self._device)
        return self._prepared

    def _with_likelihoods(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        """Add the log-likelihoods of the actions, those of all steps computed at once."""
        if any(ModuleColumns.ACTION_DIST_INPUTS not in t.outputs for t in trajectories):
            return trajectories
        likelihoods = self._policy.log_likelihoods(
            np.concatenate([t.outputs[ModuleColumns.ACTION_DIST_INPUTS] for t in trajectories]),
            np.concatenate([t.actions for t in trajectories]),
        )
        stops = np.cumsum([len(t.rewards) for t in trajectories])
        parts = np.split(likelihoods, stops[:-1])
        return [
            replace(t, outputs=t.outputs | {ModuleColumns.ACTION_LOGP: part})
            for t, part in zip(trajectories, parts, strict=True)
        ]

    def _to_episode(self, trajectory: Trajectory) -> SingleAgentEpisode:
        steps = len(trajectory.rewards)
        key = (self.worker_index or 0, self._ordinal, trajectory.ordinal)
        episode = SingleAgentEpisode(
            id_="-".join(map(str, (self._weights_seq_no, *key, trajectory.seed))),
            observations=trajectory.obs,
            actions=trajectory.actions,
            rewards=trajectory.rewards,
            infos=[{}] * (steps + 1),
            extra_model_outputs={
                **trajectory.outputs,
                WEIGHTS_SEQ_NO: np.full(steps, self._weights_seq_no),
            },
            terminated=trajectory.terminated,
            truncated=trajectory.truncated,
            observation_space=self.env.single_observation_space,
            action_space=self.env.single_action_space,
            t_started=0,
            len_lookback_buffer=0,
        )
        episode.custom_data.update(
            seed=trajectory.seed,
            env_actions=trajectory.fast[ACTION],
            fast_obs=trajectory.fast[OBS],
            fast_rewards=trajectory.fast[REWARD],
        )
        self.metrics.log_value(
            metrics.FAST_EPISODE_RETURN_MEAN, float(trajectory.fast[REWARD].sum()), window=100
        )
        return episode


def evaluation_seeds(config: Any) -> list[int]:
    """Return the seeds of an evaluation's episodes; none, if it is measured in steps."""
    if config.evaluation_duration_unit != "episodes" or config.evaluation_duration == "auto":
        return []
    return list(range(EVALUATION_SEED, EVALUATION_SEED + int(config.evaluation_duration)))


def registered_env(spec: EnvSpec) -> EnvSpec:
    """Return the creator behind a name given to ``ray.tune.register_env``, or ``spec`` itself."""
    if isinstance(spec, str) and _global_registry.contains(ENV_CREATOR, spec):
        creator: EnvSpec = _global_registry.get(ENV_CREATOR, spec)
        return creator
    return spec


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Seed torch's global generator for a while: RLlib's distributions draw from it.

    On one thread: for a few rows at a time, handing work to a second one costs more than it saves.
    """
    with torch.random.fork_rng(devices=[]), torch_threads():
        # `torch.manual_seed` notes the call's whole stack for a GPU that was never used
        gpu_is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        (torch.manual_seed if gpu_is_used else torch.default_generator.manual_seed)(seed)
        yield


def _has_plain_state(module: Any) -> bool:
    """Whether a module's state is that of its weights, as RLlib saves and loads them."""
    return isinstance(module, TorchRLModule) and all(
        getattr(type(module), name) is getattr(TorchRLModule, name)
        for name in ("get_state", "set_state")
    )


def _warn_of_endless_episodes(env: Any) -> None:
    logger.warning(
        "no episode of %s has ended within %d steps, and only complete ones are trained on; end "
        "them, e.g. with `max_episode_steps` in `env_config` or gymnasium.wrappers.TimeLimit",
        env,
        _ENDLESS_TICKS,
    )


def _time_limit(env: Any) -> int | None:
    return env.spec.max_episode_steps if env.spec is not None else None


def _fresh_entropy() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def one_of(env: Any) -> Any:
    """Return one bare environment of a vector: the first lane, or the native vector itself."""
    return env.unwrapped.envs[0].unwrapped if hasattr(env.unwrapped, "envs") else env.unwrapped
