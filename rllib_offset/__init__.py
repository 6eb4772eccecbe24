"""Train agents on a fast simulator, corrected towards a slow one by a learned offset.

Public names load on first use, so that importing the environments never imports Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_offset.algorithm import (
        A2C,
        A2CConfig,
        OffsetA2C,
        OffsetA2CConfig,
        OffsetMixin,
        OffsetPPO,
        OffsetPPOConfig,
        register,
    )
    from rllib_offset.corrected_env import CorrectedEnv
    from rllib_offset.errors import SlowSimulatorError
    from rllib_offset.pair import EnvPair

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "A2CConfig",
    "CorrectedEnv",
    "EnvPair",
    "OffsetA2C",
    "OffsetA2CConfig",
    "OffsetMixin",
    "OffsetPPO",
    "OffsetPPOConfig",
    "SlowSimulatorError",
    "register",
]

_MODULES = {
    "A2C": "algorithm",
    "A2CConfig": "algorithm",
    "CorrectedEnv": "corrected_env",
    "EnvPair": "pair",
    "OffsetA2C": "algorithm",
    "OffsetA2CConfig": "algorithm",
    "OffsetMixin": "algorithm",
    "OffsetPPO": "algorithm",
    "OffsetPPOConfig": "algorithm",
    "SlowSimulatorError": "errors",
    "register": "algorithm",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
