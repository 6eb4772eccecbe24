"""Whether a checkpoint can be restored into an experiment, found out before anything is started."""

import pickle
from pathlib import Path
from typing import Any

__all__ = ["UNREADABLE", "check_checkpoint"]

_CLASS_FILE, _STATE_FILE = "class_and_ctor_args.pkl", "algorithm_state.pkl"
UNREADABLE: tuple[type[Exception], ...] = (  # what unpickling a damaged checkpoint may raise
    OSError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    ImportError,
)
_OF_THE_PAIR = ("env", "slow_env", "env_config", "slow_env_config")


def check_checkpoint(path: str, algorithm: type, config: Any) -> None:
    """See that a checkpoint is whole, of the same algorithm and of the same pair of simulators.

    Restoring one unpickles it, as RLlib's checkpoints are pickled; so does this.

    Args:
        path: Folder of the checkpoint.
        algorithm: The class it is to be restored into.
        config: Its configuration.

    Raises:
        ValueError: If it cannot be restored, or must not.
    """
    folder = Path(path).expanduser()
    if not (folder / _CLASS_FILE).is_file():
        raise ValueError(f"{path} is no checkpoint; give a folder named checkpoint_...")
    try:
        pickle.loads((folder / _STATE_FILE).read_bytes())
        content = pickle.loads((folder / _CLASS_FILE).read_bytes())
        made_by, (state, *_) = content["class"], content["ctor_args_and_kwargs"][0]
        made_by = getattr(made_by, "__ray_actor_class__", made_by)  # an actor's is a copy
        settings = state if isinstance(state, dict) else state.to_dict()
    except UNREADABLE as error:
        raise ValueError(f"the checkpoint {path} cannot be read: {type(error).__name__}") from error
    if made_by is not algorithm:
        raise ValueError(
            f"the checkpoint {path} was made by {made_by.__name__}, not by {algorithm.__name__}"
        )
    for name in _OF_THE_PAIR:
        was, now = settings.get(name), getattr(config, name, None)
        if name in settings and (was or None) != (now or None):
            raise ValueError(
                f"the checkpoint {path} is of another pair of simulators: `{name}` was {was!r}, "
                f"and is {now!r}; train anew, or set it back"
            )
