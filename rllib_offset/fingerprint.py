"""What makes two runs use the same pair of simulators: ids, configurations, versions."""

import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from rllib_offset.pair import EnvPair, EnvSpec
from rllib_offset.store import StoreLocation

__all__ = ["label_location", "pair_description", "pair_fingerprint"]


def label_location(pair: EnvPair, path: str) -> StoreLocation:
    """Return where the labels of a pair lie within the folder ``path``, a path or a URI."""
    description = json.dumps(pair_description(pair), sort_keys=True)
    return StoreLocation(path, pair_fingerprint(pair), description)


def pair_fingerprint(pair: EnvPair) -> str:
    """Return 24 hexadecimal digits that change with anything that may change a slow result.

    Example:
        >>> a, b = (EnvPair("Pendulum-v1", "Pendulum-v1", {}, {"g": g}) for g in (9.8, 3.7))
        >>> pair_fingerprint(a) == pair_fingerprint(a), pair_fingerprint(a) == pair_fingerprint(b)
        (True, False)
    """
    text = json.dumps(pair_description(pair), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def pair_description(pair: EnvPair) -> dict[str, Any]:
    """Return what the fingerprint is made of, as JSON knows it."""
    packages = sorted({_package(pair.fast), _package(pair.slow)})
    return {
        "fast": _spec_name(pair.fast),
        "slow": _spec_name(pair.slow),
        "fast_config": _plain(pair.fast_config),
        "slow_config": _plain(pair.slow_config),
        "versions": {name: _version(name) for name in packages},
    }


def _spec_name(spec: EnvSpec) -> str:
    if isinstance(spec, str):
        return spec
    module, name = getattr(spec, "__module__", None), getattr(spec, "__qualname__", None)
    return f"{module}.{name}" if module and name else type(spec).__qualname__


def _plain(value: Any) -> Any:
    """Reduce a configuration to what JSON can write, the same in every process."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if callable(value):
        return _spec_name(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _package(spec: EnvSpec) -> str:
    """Return the top-level package that the environment comes from."""
    if not isinstance(spec, str):
        return _spec_name(spec).partition(".")[0]
    module, colon, env_id = spec.rpartition(":")
    if colon:
        return module.partition(".")[0]
    registered = gym.registry.get(env_id)
    entry_point = getattr(registered, "entry_point", None)
    if entry_point is not None:
        return re.split(r"[.:]", _spec_name(entry_point))[0]
    return spec.partition(".")[0] if "." in spec else "gymnasium"


def _version(package: str) -> str | None:
    """Return the version of an installed package; None where it has none."""
    for name in (package, package.replace("_", "-")):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    version = getattr(sys.modules.get(package), "__version__", None)
    return None if version is None else str(version)
