"""Tests what a pair of simulators claims to offer, by replaying a few steps.

The replays are those of training, :func:`rllib_offset.replay.worker.replay`, with the fast
simulator in the slow one's place where it is the one examined.
"""

import math
import time
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rllib_offset.columns import (
    ACTION,
    MEASUREMENT,
    NEXT_STATE,
    OBS,
    REWARD,
    STATE,
    TERMINATED,
    VALID,
    Columns,
    concat_columns,
    slice_columns,
)
from rllib_offset.errors import SlowSimulatorError, kind_and_message
from rllib_offset.pair import Claim, EnvPair, PairReport
from rllib_offset.replay.requests import ReplayRequest
from rllib_offset.replay.worker import replay
from rllib_offset.simulator_state import (
    StateRange,
    can_get_simulator_state,
    can_set_simulator_state,
    get_simulator_state,
    simulator_state_space,
    state_divergence,
)

__all__ = ["check_pair", "problems_at_the_start"]

AnyEnv = gym.Env[Any, Any]

_SAME_DYNAMICS = 1e-6  # a drift of rounding errors is none
_ENDLESS_STEPS = 10_000
_LOOKS_FOR_AN_END_S = 10.0


def check_pair(pair: EnvPair, *, seed: int = 0, steps: int = 20) -> PairReport:
    """Test a pair in about ``2 * steps`` slow steps; a broken pair is reported, never raised.

    Args:
        pair: The simulators.
        seed: Of the first episode and of the random actions.
        steps: How many steps are compared.

    Raises:
        ValueError: If ``steps`` is below one.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be >= 1, got {steps}")
    check = _Check(seed, steps)
    try:
        check.run(pair)
    except SlowSimulatorError as error:
        check.problems.append(str(error))
    finally:
        check.close()
    return check.report()


def problems_at_the_start(pair: EnvPair, *, seed: int = 0) -> tuple[str, ...]:
    """Return why a pair cannot be used, as far as it shows without a slow step."""
    check = _Check(seed, steps=0)
    try:
        check.build(pair)
        if not check.problems and check.have_equal_spaces():
            check.start_alike()
    except SlowSimulatorError as error:
        check.problems.append(str(error))
    finally:
        check.close()
    return tuple(check.problems)


class _Check:
    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps = seed, steps
        self.envs: dict[str, AnyEnv] = {}
        self.claims: list[Claim] = []
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.level, self.slow_steps = 0, 0
        self.dynamics: Literal["same", "different", "unknown"] = "unknown"
        self.divergence = math.nan
        self.has_outcome = False
        self.repeats: dict[str, bool] = {}

    def report(self) -> PairReport:
        return PairReport(
            level=0 if self.problems else self.level,
            dynamics=self.dynamics,
            divergence=self.divergence,
            has_outcome=self.has_outcome,
            claims=tuple(self.claims),
            problems=tuple(self.problems),
            missing=() if self.problems else tuple(self.missing),
            slow_steps=self.slow_steps,
        )

    def close(self) -> None:
        for env in self.envs.values():
            env.close()  # type: ignore[no-untyped-call]

    def run(self, pair: EnvPair) -> None:
        self.build(pair)
        if self.problems or not self.have_equal_spaces():
            return
        self.start_alike()
        requests, slow = self._slow_episodes()
        fast = [self._replay("fast", request) for request in requests]
        episodes = {"slow": slow, "fast": fast}
        steps = {name: concat_columns(parts) for name, parts in episodes.items()}
        for name in episodes:
            self._is_finite(name, steps[name])
            self._is_in_its_space(name, steps[name])
            again = [replace(request, key=(*request.key, 1)) for request in requests]
            repeated = concat_columns([self._replay(name, request) for request in again])
            self._repeats(name, steps[name], repeated)
        continues = {name: self._continues(name, steps) for name in episodes}
        self._find_level(continues)
        self._compare_dynamics(slow, fast)
        self._check_outcome(steps)
        self._look_for_an_end()

    def _claim(self, name: str, holds: bool | None, text: str) -> bool | None:
        self.claims.append(Claim(name, holds, text))
        return holds

    def build(self, pair: EnvPair) -> None:
        for name, make in (("fast", pair.make_fast), ("slow", pair.make_slow)):
            try:
                self.envs[name] = make()
            except Exception as error:
                what = kind_and_message(error) + _hint(error)
                self.problems.append(f"the {name} environment cannot be made: {what}")

    def have_equal_spaces(self) -> bool:
        fast, slow = self.envs["fast"], self.envs["slow"]
        # the bounds of observations may differ, as the rewards within them do
        if fast.observation_space.shape != slow.observation_space.shape:
            self._differ("observation_space")
        if fast.action_space != slow.action_space:
            self._differ("action_space")
        return bool(self._claim("spaces", not self.problems, "observations and actions are alike"))

    def _differ(self, kind: str) -> None:
        fast, slow = (getattr(self.envs[name], kind) for name in ("fast", "slow"))
        self.problems.append(f"both need the same `{kind}`, got fast {fast}, slow {slow}")

    def start_alike(self) -> None:
        starts = {name: self._start(name, self.seed) for name in self.envs}
        for name, start in starts.items():
            if STATE in start and not np.isfinite(start[STATE]).all():
                self.problems.append(
                    f"the {name} environment starts with a simulator state that is not finite, "
                    f"{start[STATE].tolist()}"
                )
            if not np.isfinite(start[OBS]).all():
                self.problems.append(
                    f"the {name} environment starts with an observation that is not finite, "
                    f"{start[OBS].tolist()}"
                )
        if self.problems:
            return
        fast, slow = starts["fast"], starts["slow"]
        if STATE in fast and STATE in slow and fast[STATE].shape == slow[STATE].shape:
            differing = _differing(fast[STATE], slow[STATE])
            if not differing:
                self._claim("start", True, "the same seed starts both in the same state")
                return
            text = f"the same seed starts them in different states, {_parts('state', differing)}"
            self._claim("start", False, text)
            self.problems.append(
                f"{text}; draw the start from `self.np_random` after `super().reset(seed=seed)`"
            )
            return
        differing = _differing(fast[OBS], slow[OBS])
        text = "the same seed gives the same first observation"
        if differing:
            text = (
                f"the first observations differ, {_parts('obs', differing)}: right only if these "
                "follow from the simulators' difference; `get_simulator_state()` would tell"
            )
        self._claim("start", None if differing else True, text)

    def _start(self, name: str, seed: int) -> Columns:
        env, doing = self.envs[name], "`reset(seed=...)`"
        try:
            answer = env.reset(seed=seed)
            if not (isinstance(answer, tuple) and len(answer) == 2):
                raise TypeError(f"it must return (obs, info), got {type(answer).__name__}")
            start: Columns = {OBS: np.asarray(answer[0])}
            if can_get_simulator_state(env):
                doing = "`get_simulator_state()`, which must return numbers,"
                start[STATE] = get_simulator_state(env)
        except Exception as error:
            hint = "; it must return (obs, info)" if "to unpack" in str(error) else ""
            raise SlowSimulatorError(
                f"{doing} of the {name} environment raised {kind_and_message(error)}{hint}"
            ) from error
        return start

    def _replay(self, name: str, request: ReplayRequest) -> Columns:
        """Replay in one of the two, and return what finished with its actions."""
        result = replay(request, self.envs[name])
        if name == "slow":
            self.slow_steps += result.num_steps
        if result.error is not None or result.slow is None:
            error = str(result.error).replace("the slow", f"the {name}", 1)
            raise SlowSimulatorError(error + _hint(error))
        return result.slow | {ACTION: request.actions[result.index]}

    def _slow_episodes(self) -> tuple[list[ReplayRequest], list[Columns]]:
        """Play random actions, episode after episode, until the steps are used up."""
        space = self.envs["slow"].action_space
        space.seed(self.seed)
        actions = np.stack([space.sample() for _ in range(self.steps)])
        requests: list[ReplayRequest] = []
        episodes: list[Columns] = []
        while len(actions):
            number = len(requests)
            requests.append(ReplayRequest((number,), "trajectory", actions, self.seed + number))
            episodes.append(self._replay("slow", requests[-1]))
            actions = actions[len(episodes[-1][OBS]) :]
        return requests, episodes

    def _is_finite(self, name: str, steps: Columns) -> None:
        wrong = [c for c in (OBS, REWARD) if not np.isfinite(steps[c].astype(float)).all()]
        text = "observations and rewards are finite"
        if wrong:
            text = f"{' and '.join(wrong)} not finite in some steps: their labels will be invalid"
        if wrong and name == "fast":
            self.problems.append(
                f"the fast environment gives a {' and a '.join(wrong)} that is not finite; "
                "an agent cannot learn from it"
            )
        self._claim(f"{name} is finite", not wrong, text)

    def _is_in_its_space(self, name: str, steps: Columns) -> None:
        space, obs = self.envs[name].observation_space, steps[OBS]
        assert isinstance(space, spaces.Box)  # `make_env` flattens
        margin = 1e-6 * np.maximum(1.0, np.abs(obs))  # of rounding
        outside = np.argwhere((obs < space.low - margin) | (obs > space.high + margin))
        text = "observations lie within `observation_space`"
        if len(outside):
            step, i = outside[0]
            text = (
                f"obs[{i}] is {obs[step, i]:g} in step {step}, outside of its "
                f"`observation_space`, [{space.low[i]:g}, {space.high[i]:g}]; widen the bounds"
            )
        self._claim(f"{name} space", not len(outside), text)

    def _repeats(self, name: str, first: Columns, again: Columns) -> None:
        wrong = _unequal(first, again)
        text = "the same seed and actions give the same results"
        if wrong:
            text = f"{', '.join(wrong)} differ for the same seed and actions: labels will be noisy"
        self._claim(f"{name} is deterministic", not wrong, text)
        self.repeats[name] = not wrong

    def _continues(self, name: str, steps: dict[str, Columns]) -> bool | None:
        """Whether a simulator set back to a state goes on as it did; None if it cannot be told."""
        claim, env = f"{name} state", self.envs[name]
        if not can_set_simulator_state(env):
            return self._claim(claim, False, "cannot be set, there is no `set_simulator_state`")
        own, given = steps[name].get(STATE), steps["fast"].get(STATE)
        if own is None and given is None:
            return self._claim(claim, None, "can be set; without `get_simulator_state` untested")
        wrong: set[str] = set()
        try:
            self._start(name, self.seed + self.steps)  # what a state lacks is now another
            if given is not None:  # states come from the fast simulator
                wrong.update(self._step_again(name, steps[name], given[:1], np.array([0])))
            if own is not None:
                rows = np.unique([len(own) // 2, len(own) - 1])
                wrong.update(self._step_again(name, steps[name], own[rows], rows))
        except SlowSimulatorError as error:
            return self._claim(claim, False, f"cannot be set, {error}")
        if not wrong:
            return self._claim(claim, True, "set back to a state, it continues as it did before")
        if self.repeats[name]:
            what = ", ".join(sorted(wrong))
            return self._claim(
                claim, False, f"set back to a state, it continues otherwise ({what})"
            )
        return self._claim(claim, None, "can be set; whether it continues alike is lost in noise")

    def _step_again(
        self, name: str, steps: Columns, states: NDArray[Any], rows: NDArray[np.int64]
    ) -> list[str]:
        """Return the columns that come out differently when steps are taken again."""
        known = slice_columns(steps, rows)
        request = ReplayRequest(
            (0,), "steps", known[ACTION], states=states, fast={ACTION: known[ACTION]}
        )
        return _unequal(known, self._replay(name, request))

    def _find_level(self, continues: dict[str, bool | None]) -> None:
        if continues["slow"] is False:
            self.missing.append("the slow environment must take a state and continue from it")
        if not can_get_simulator_state(self.envs["fast"]):
            self.missing.append("the fast environment must offer `get_simulator_state()`")
        if self.missing:
            return
        if continues["fast"] is False:
            self.missing.append("the fast environment must take a state and continue from it")
        if not can_get_simulator_state(self.envs["slow"]):
            self.missing.append("the slow environment must offer `get_simulator_state()`")
        self.level = 1 if self.missing else 2

    def _compare_dynamics(self, slow: list[Columns], fast: list[Columns]) -> None:
        pairs = list(zip(slow, fast, strict=True))
        has_states = all(NEXT_STATE in columns for both in pairs for columns in both)
        name = NEXT_STATE if has_states else OBS
        if any(s[name].shape[1:] != f[name].shape[1:] for s, f in pairs):
            self._claim("dynamics", None, "the states of the two have different widths")
            return
        lengths = [min(len(s[name]), len(f[name])) for s, f in pairs]
        of_slow = np.concatenate([s[name][:n] for s, n in zip(slow, lengths, strict=True)])
        of_fast = np.concatenate([f[name][:n] for f, n in zip(fast, lengths, strict=True)])
        env = self.envs["slow"]
        space = simulator_state_space(env) if has_states else env.observation_space
        seen = StateRange(space)
        for states in (of_slow, of_fast):
            seen.see(states)
        self.divergence = state_divergence(of_slow, of_fast, seen.width)
        if self.divergence < _SAME_DYNAMICS:
            self.dynamics = "same"
            self._claim("dynamics", True, "replayed actions lead both through the same states")
        elif has_states:
            self.dynamics = "different"
            text = f"replayed actions lead elsewhere, divergence {self.divergence:.2g}"
            self._claim("dynamics", False, text)
        else:
            text = f"observations diverge by {self.divergence:.2g}; states would tell why"
            self._claim("dynamics", None, text)

    def _look_for_an_end(self) -> None:
        """Report a fast simulator whose episodes do not end: only complete ones are trained on."""
        env, end_s = self.envs["fast"], time.monotonic() + _LOOKS_FOR_AN_END_S
        if env.spec is not None and env.spec.max_episode_steps is not None:
            return
        env.action_space.seed(self.seed)
        is_over, steps = False, 0
        try:
            env.reset(seed=self.seed)
            while not is_over and steps < _ENDLESS_STEPS and time.monotonic() < end_s:
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                is_over, steps = bool(terminated or truncated), steps + 1
        except Exception:
            return  # what a step raises is not told here
        if not is_over:
            text = (
                f"no episode of random actions ended within {steps} steps, and training waits "
                "for ends; give it `max_episode_steps` or wrap it in gymnasium.wrappers.TimeLimit"
            )
            self._claim("fast episodes", False if steps == _ENDLESS_STEPS else None, text)

    def _check_outcome(self, steps: dict[str, Columns]) -> None:
        offering = [name for name, env in self.envs.items() if _outcome(env) is not None]
        verdicts = [self._reproduces(name, steps[name]) for name in offering]
        is_measured = all(MEASUREMENT in columns for columns in steps.values())
        self.has_outcome = is_measured and "fast" in offering and False not in verdicts

    def _reproduces(self, name: str, steps: Columns) -> bool | None:
        claim = f"{name} outcome"
        for needed, offer in ((MEASUREMENT, "info['measurement']"), (STATE, "get_simulator_state")):
            if needed not in steps:
                return self._claim(claim, None, f"untested without `{offer}`")
        for i in np.flatnonzero(steps[VALID]):
            row = {column: values[i] for column, values in steps.items()}
            try:
                found = self._outcome_of(name, row)
                wrong = _unequal(row, found, tolerance=1e-6)
            except Exception as error:
                return self._claim(claim, False, f"`outcome` raised {kind_and_message(error)}")
            if wrong:
                what = f"`outcome` does not reproduce {', '.join(wrong)} of step {i}"
                column = wrong[0]
                expected, got = np.asarray(row[column]), np.asarray(found[column])
                return self._claim(
                    claim, False, f"{what}: {column} was {_shown(expected)}, got {_shown(got)}"
                )
        return self._claim(claim, True, "`outcome` reproduces observation, reward and termination")

    def _outcome_of(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        env = self.envs[name]
        obs, reward, terminated = _outcome(env)(row[MEASUREMENT], row[STATE], row[ACTION])
        flat = spaces.flatten(env.unwrapped.observation_space, obs)
        return {OBS: np.asarray(flat, np.float32), REWARD: reward, TERMINATED: terminated}


def _outcome(env: AnyEnv) -> Any:
    outcome = getattr(env.unwrapped, "outcome", None)
    return outcome if callable(outcome) else None


def _hint(error: Exception | str) -> str:
    """Say what to do about mistakes that Python's own message does not explain."""
    text = str(error)
    if ("positional argument" in text and "__init__" in text) or "takes no arguments" in text:
        return "; RLlib gives a class one argument: `def __init__(self, config=None)`"
    if "no attribute 'action_space'" in text or "no attribute 'observation_space'" in text:
        return "; set `observation_space` and `action_space`"
    if "values to unpack" in text:
        return "; `step` must return (obs, reward, terminated, truncated, info), as in Gymnasium"
    return ""


def _shown(value: NDArray[Any]) -> str:
    return np.array2string(value, precision=6, separator=", ", threshold=6, edgeitems=2)


def _unequal(a: dict[str, Any], b: dict[str, Any], tolerance: float = 1e-9) -> list[str]:
    """Return which of the shared columns differ, beyond rounding."""
    return [name for name in a if name in b and not _same(a[name], b[name], tolerance)]


def _same(a: Any, b: Any, tolerance: float) -> bool:
    close = np.shape(a) == np.shape(b)
    return close and np.allclose(a, b, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True)


def _differing(a: NDArray[Any], b: NDArray[Any]) -> list[int]:
    return [int(i) for i in np.flatnonzero(~np.isclose(a, b, rtol=1e-6, atol=1e-9))]


def _parts(name: str, components: list[int]) -> str:
    shown = ", ".join(f"{name}[{i}]" for i in components[:5])
    return shown + (f" and {len(components) - 5} more" if len(components) > 5 else "")
