import logging
import os
import warnings
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[1])


@pytest.fixture(scope="session")
def started_nodes():
    """Node ids of the clusters that :func:`ray_cluster` has started; the last is stopped."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, before)))
    nodes = []
    yield nodes
    if nodes:
        import ray

        ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def ray_cluster(started_nodes):
    """One local cluster for all tests that need Ray; its workers can import `tests.envs`.

    Another is only started where a test needed one of its own meanwhile.
    """
    import ray

    if ray.is_initialized():
        if ray.get_runtime_context().get_node_id() in started_nodes:
            return
        ray.shutdown()
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    started_nodes.append(ray.get_runtime_context().get_node_id())


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


@pytest.fixture
def location(tmp_path):
    """Where a label store of one pair may be."""
    from rllib_offset.store import StoreLocation

    return StoreLocation(str(tmp_path / "labels"), "0f1e")
