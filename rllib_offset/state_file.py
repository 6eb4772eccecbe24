"""Nested dicts of arrays and plain values in one file, from which nothing is unpickled."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_state", "write_state"]


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state in one move; its folder is made.  Dicts that are empty are left out."""
    leaves = dict(_flatten(state))
    arrays = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray)}
    plain = {name: leaf for name, leaf in leaves.items() if name not in arrays}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, json=np.array(json.dumps(plain)), **arrays)
    unfinished.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return what :func:`write_state` wrote."""
    with np.load(path, allow_pickle=False) as file:
        leaves: dict[str, Any] = {name: file[name] for name in file.files if name != "json"}
        leaves |= json.loads(str(file["json"]))
    return _unflatten(leaves)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = value
    return tree
