"""Environment pairs to try the method on; importing this package registers their ids.

=============================================  ==================================================
slow id                                        fast partner
=============================================  ==================================================
``rllib_offset/PointMass-v0``                  ``RewardOffsetPointMass``, ``SparsePointMass``,
                                               ``PseudoSparsePointMass``, ``NoisePointMass``
``rllib_offset/RuggedPointMass-v0``            ``rllib_offset/RewardOffsetRuggedPointMass-v0``
``rllib_offset/DriftPointMass-v0``             ``rllib_offset/RewardOffsetPointMass-v0``
``rllib_offset/DampedPendulum-v0``             ``rllib_offset/Pendulum-v0``
``rllib_offset/OpAmpExtracted-v0``             ``OpAmpHand``, ``OpAmpSchematic`` (needs ngspice)
``rllib_offset/CellDFN-v0``                    ``rllib_offset/CellSPM-v0`` (both need PyBaMM)
=============================================  ==================================================

Where another process builds the environment, give it ``"rllib_offset.envs:<id>"``, so that it
imports this package first. Only Gymnasium is imported here.
"""

from typing import Any

import gymnasium as gym

__all__ = ["ENV_IDS"]

_SHIFT = (-0.8, -0.7)  # moves the fast optimum to (-0.4, -0.4)
_POINT_MASS: dict[str, dict[str, Any]] = {
    "PointMass": {},
    "RewardOffsetPointMass": {"shift": _SHIFT},
    "SparsePointMass": {"threshold": 0.5},
    "PseudoSparsePointMass": {"threshold": 0.5, "mix": 0.8},
    "NoisePointMass": {"sigma": 0.3},
    "RuggedPointMass": {"sigma": 0.1},
    "RewardOffsetRuggedPointMass": {"sigma": 0.1, "shift": _SHIFT},
    "DriftPointMass": {"rotation_deg": 60.0, "gain": 0.8, "drift": (0.02, -0.01)},
}
_PENDULUM: dict[str, dict[str, Any]] = {
    "Pendulum": {},
    "DampedPendulum": {"mass": 1.15, "damping": 0.1},
}
_OPAMP = {"OpAmpHand": "hand", "OpAmpSchematic": "schematic", "OpAmpExtracted": "extracted"}
_CELL = {"CellSPM": "SPM", "CellDFN": "DFN"}

ENV_IDS = tuple(f"rllib_offset/{name}-v0" for name in (*_POINT_MASS, *_PENDULUM, *_OPAMP, *_CELL))

for _name, _kwargs in _POINT_MASS.items():
    gym.register(
        id=f"rllib_offset/{_name}-v0",
        entry_point="rllib_offset.envs.point_mass:PointMassEnv",
        vector_entry_point="rllib_offset.envs.point_mass:PointMassVectorEnv",
        max_episode_steps=100,  # the paper's maximum trajectory length
        kwargs=_kwargs,
    )
for _name, _kwargs in _PENDULUM.items():
    gym.register(
        id=f"rllib_offset/{_name}-v0",
        entry_point="rllib_offset.envs.pendulum:DampedPendulumEnv",
        max_episode_steps=200,
        kwargs=_kwargs,
    )
for _name, _fidelity in _OPAMP.items():
    gym.register(
        id=f"rllib_offset/{_name}-v0",
        entry_point="rllib_offset.envs.opamp.environment:OpAmpEnv",
        vector_entry_point=(
            "rllib_offset.envs.opamp.vector_environment:OpAmpVectorEnv"
            if _fidelity == "hand"
            else None
        ),
        max_episode_steps=30,
        kwargs={"fidelity": _fidelity},
    )
for _name, _model in _CELL.items():
    gym.register(
        id=f"rllib_offset/{_name}-v0",
        entry_point="rllib_offset.envs.battery.environment:CellEnv",
        max_episode_steps=12,
        kwargs={"model": _model},
    )
