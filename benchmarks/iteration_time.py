"""Time per training iteration of the tuned configs: `make bench`, or with names of configs.

Evaluation is left out; the first iterations, which build and warm up, are not counted.
"""

import logging
import statistics
import sys
import time
import warnings
from pathlib import Path

import ray

import rllib_offset
from rllib_offset.cli import NOISY_LOGGERS, load_experiments, prepare_experiment

TUNED_CONFIGS = Path(__file__).parent.parent / "tuned_configs"
DEFAULT = ("pointmass-baseline", "pointmass-offset-serial", "pointmass-offset")
WARM_UP, MEASURED = 3, 10


def iteration_times_s(path: Path) -> tuple[float, list[float]]:
    """Steps per iteration, and the seconds of each measured iteration."""
    ((name, spec),) = load_experiments(path).items()
    spec["config"]["evaluation_interval"] = None
    prepare_experiment(name, spec)
    algorithm_class = ray.tune.registry.get_trainable_cls(spec["run"])
    config = algorithm_class.get_default_config().update_from_dict(spec["config"])
    algorithm = config.build_algo()
    try:
        seconds = []
        steps = 0.0
        for _ in range(WARM_UP + MEASURED):
            started = time.perf_counter()
            result = algorithm.train()
            seconds.append(time.perf_counter() - started)
            steps = result["num_env_steps_sampled_lifetime"] / len(seconds)
        return steps, seconds[WARM_UP:]
    finally:
        algorithm.stop()


def main() -> None:
    warnings.simplefilter("ignore")
    for noisy in NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rllib_offset.register()
    print(f"{'config':<28}{'s/iteration':>12}{'fastest':>10}{'steps/s':>10}")
    for name in sys.argv[1:] or DEFAULT:
        steps, seconds = iteration_times_s(TUNED_CONFIGS / f"{name}.yaml")
        median = statistics.median(seconds)
        print(f"{name:<28}{median:>12.3f}{min(seconds):>10.3f}{steps / median:>10,.0f}", flush=True)


if __name__ == "__main__":
    main()
