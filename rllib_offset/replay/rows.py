"""Requests and answers as rows of the label store, and back."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from rllib_offset.columns import Columns, slice_columns
from rllib_offset.replay.requests import Key, ReplayRequest, ReplayResult, nothing
from rllib_offset.replay.simulator import mark_valid
from rllib_offset.store import IDENTITY, IS_END, KIND, PURCHASE, RUN, SECONDS, STEP

__all__ = [
    "KEY",
    "answer_from",
    "as_request",
    "as_result",
    "column_types",
    "identities",
    "label_rows",
    "noted_rows",
    "request_rows",
    "sorted_rows",
    "split_rows",
    "word_of",
]

KEY, _SEED = "key", "seed"
_NO_SEED = -1


def identities(request: ReplayRequest) -> list[str]:
    """Return what makes two requests the same: one name per single step, one per trajectory.

    A single step is its state and action; a trajectory is its seed and sequence of actions.
    """
    if request.kind != "steps":
        return [_digest(request.kind, request.seed, request.actions)]
    assert request.states is not None
    rows = zip(request.states, request.actions, strict=True)
    return [_digest("steps", np.asarray(state, np.float64), action) for state, action in rows]


def _digest(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray | np.generic):
            part = np.ascontiguousarray(part)
            digest.update(f"{part.dtype.str}{part.shape}".encode() + part.tobytes())
        else:
            digest.update(f"{part};".encode())
    return digest.hexdigest()


def label_rows(result: ReplayResult, run: str, seconds: float, is_complete: bool) -> Columns:
    """Return what the store keeps of an answer.

    Args:
        result: Whose ``purchase`` names the attempt.
        run: Who paid.
        seconds: Simulator time of all rows together.
        is_complete: Whether nothing is missing after the last row of a trajectory.
    """
    request, index = result.request, result.index
    num_rows = len(index)
    names = identities(request)
    single_steps = request.kind == "steps"
    return {
        IDENTITY: np.array([names[i] for i in index] if single_steps else names * num_rows),
        PURCHASE: np.array([result.purchase] * num_rows),
        RUN: np.array([run] * num_rows),
        **noted_rows(result, seconds, is_complete),
        **slice_columns(request_rows(replace(request, fast={})), index),
        **{f"fast.{name}": column for name, column in result.fast.items()},
    }


def noted_rows(result: ReplayResult, seconds: float, is_complete: bool) -> Columns:
    """Return what the request does not say."""
    num_rows = len(result.index)
    is_end = np.full(num_rows, result.request.kind == "steps")
    is_end[-1] |= is_complete
    assert result.slow is not None
    fast = {} if result.request.fast else result.fast
    return {
        STEP: result.index.astype(np.int64),
        IS_END: is_end,
        SECONDS: np.full(num_rows, seconds / num_rows),
        **{f"slow.{name}": column for name, column in result.slow.items()},
        **{f"fast.{name}": column for name, column in fast.items()},
    }


def request_rows(request: ReplayRequest) -> Columns:
    """Return what :func:`as_request` needs to build the request again."""
    num_rows = len(request)
    rows: Columns = {
        KIND: np.array([request.kind] * num_rows),
        KEY: np.array([word_of(request.key)] * num_rows),
        _SEED: np.full(num_rows, _NO_SEED if request.seed is None else request.seed, np.int64),
        "ask.action": np.asarray(request.actions),
    }
    if request.states is not None:
        rows["ask.state"] = np.asarray(request.states, np.float64)
    return rows | {f"fast.{name}": column for name, column in request.fast.items()}


def column_types(rows: Columns) -> tuple[Any, ...]:
    """Return what columns must share to stand in one table."""
    return tuple(
        (name, column.dtype.kind if column.dtype.kind == "U" else column.dtype, column.shape[1:])
        for name, column in rows.items()
    )


def as_request(rows: Columns) -> ReplayRequest:
    """Return the request that rows of one attempt, or of :func:`request_rows`, tell of."""
    seed, kind = int(rows[_SEED][0]), str(rows[KIND][0])
    return ReplayRequest(
        key=_key_of(str(rows[KEY][0])),
        kind=kind,  # type: ignore[arg-type]
        actions=rows["ask.action"],
        seed=None if seed == _NO_SEED else seed,
        states=rows.get("ask.state"),
        fast=_named("fast.", rows),
    )


def answer_from(request: ReplayRequest, rows: Columns) -> ReplayResult:
    """Return rows of the store as an answer; fast columns that the request brought stay its own."""
    index = rows[STEP].astype(np.int64)
    fast = _named("fast.", rows) if not request.fast else slice_columns(request.fast, index)
    return replace(
        nothing(request),
        slow=mark_valid(_named("slow.", rows)),  # rows written apart may lack a measurement
        fast=fast,
        index=index,
        purchase=str(rows[PURCHASE][0]),
    )


def as_result(rows: Columns) -> ReplayResult:
    """Return rows of one attempt with the request that they would answer."""
    is_whole = bool(rows[IS_END].any())
    request = as_request(rows)
    return replace(
        answer_from(request, rows | {STEP: np.arange(len(rows[STEP]))}),
        num_reused=len(rows[STEP]),
        error=None if is_whole else "it was interrupted",
    )


def _named(prefix: str, rows: Columns) -> Columns:
    return {k.removeprefix(prefix): v for k, v in rows.items() if k.startswith(prefix)}


def split_rows(rows: Columns, by: str) -> Iterator[Columns]:
    """Yield the rows of each value of a column, in the order of their first rows."""
    names, first = np.unique(rows[by], return_index=True)
    for name in names[np.argsort(first)]:
        yield slice_columns(rows, rows[by] == name)


def sorted_rows(rows: Columns) -> Columns:
    """Order the rows of one attempt, each once: a merge that was cut short leaves repeats."""
    _, first = np.unique(rows[STEP], return_index=True)
    return slice_columns(rows, first)


def word_of(key: Key) -> str:
    """Return the key as it stands in a row."""
    return ",".join(map(str, key))


def _key_of(word: str) -> Key:
    return tuple(int(part) for part in word.split(","))
