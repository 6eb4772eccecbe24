import os
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
