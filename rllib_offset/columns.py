"""Names of the columns in which steps and labels travel.

A column is a NumPy array whose first axis is the step; a set of columns is a ``dict`` by name.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTION",
    "MEASUREMENT",
    "NEXT_STATE",
    "OBS",
    "PREDICTOR_INPUTS",
    "PREV_OBS",
    "REWARD",
    "STATE",
    "TERMINATED",
    "TIME",
    "VALID",
    "Columns",
    "concat_columns",
    "slice_columns",
    "stack_columns",
]

Columns = dict[str, NDArray[Any]]

OBS = "obs"  # observation reached by the step: the one that the paper's predictor corrects
PREV_OBS = "prev_obs"  # observation that the step started from
ACTION = "action"  # what the environment received, not what the policy emitted
REWARD = "reward"
STATE = "state"  # simulator state before the step
NEXT_STATE = "next_state"  # simulator state after the step
TIME = "time"  # step index within the episode
TERMINATED = "terminated"
MEASUREMENT = "measurement"  # raw simulator output, where the pair offers `outcome`
PREDICTOR_INPUTS = "predictor_inputs"  # what the environment says an offset depends on
VALID = "valid"  # False: the simulator answered, but the answer means nothing


def slice_columns(columns: Columns, index: slice | NDArray[Any]) -> Columns:
    """Return the rows ``index`` of every column."""
    return {name: column[index] for name, column in columns.items()}


def concat_columns(parts: list[Columns]) -> Columns:
    """Join sets of columns along the step axis; only columns present in every part survive.

    Except validity: a part that does not speak of it is valid.
    """
    if not parts:
        return {}
    if any(VALID in part for part in parts):
        parts = [{VALID: np.ones(len(next(iter(part.values()))), bool)} | part for part in parts]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def stack_columns(parts: list[Columns]) -> Columns:
    """Join columns along the steps, whoever has them; where a part has none, NaN, 0 or valid."""
    like = {name: column for part in parts for name, column in part.items()}
    return {
        name: np.concatenate(
            [part[name] if name in part else _blank(part, like[name]) for part in parts]
        )
        for name in like
    }


def _blank(part: Columns, like: NDArray[Any]) -> NDArray[Any]:
    num_rows = len(next(iter(part.values())))
    nothing = np.nan if like.dtype.kind == "f" else like.dtype.kind == "b"
    return np.full((num_rows, *like.shape[1:]), nothing, dtype=like.dtype)
