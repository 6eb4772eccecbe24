import logging
import os
import warnings
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[1])


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for all tests that need Ray; its workers can import `tests.envs`."""
    import ray

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, before)))
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def noise_comes_back(monkeypatch):
    """What the command silences is for its own process, and this one is pytest's."""
    from rllib_offset.launch import NOISY_LOGGERS

    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    with warnings.catch_warnings():
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
