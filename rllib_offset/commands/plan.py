"""``rllib plan``: how many replay workers, and at which level."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rllib_offset.user_errors import UserError, one_line, user_errors

if TYPE_CHECKING:
    from rllib_offset.planner import Measurement, PlanRow

__all__ = ["plan"]

_DEFAULT_WORKERS = (1, 2, 4, 8, 16, 32)
_BAR = 30  # characters


def plan(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="YAML file of an experiment with `slow_env`."),
    ] = None,
    fast_env: Annotated[
        str | None, typer.Option(help="The fast simulator, without a file.")
    ] = None,
    slow_env: Annotated[
        str | None, typer.Option(help="The slow simulator, without a file.")
    ] = None,
    fast_config: Annotated[str | None, typer.Option(help="What the fast one is made with.")] = None,
    slow_config: Annotated[str | None, typer.Option(help="What the slow one is made with.")] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option("--workers", "-n", min=1, help="Replay workers; repeat for several."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Steps replayed per batch.")] = 1000,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Steps of an episode. Default: measured.")
    ] = None,
    slow_steps: Annotated[int, typer.Option(min=2, help="Slow steps to measure.")] = 20,
    check: Annotated[
        bool, typer.Option("--check", help="Also time real iterations: this replays whole batches.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Write the curve: .png, .svg or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers for a program.")] = False,
) -> None:
    """Measure both simulators here, and predict the time of a batch for several worker counts.

    Serial replays in the driver; trajectory level replays whole episodes side by side; sample level
    single steps, where the pair allows it.

    Example: rllib plan tuned_configs/pointmass-offset.yaml -n 2 -n 8
    """
    with user_errors():
        if figure is not None and figure.suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"--figure must end in .png, .svg or .pdf, got {figure}")
        config = _config(file, fast_env, slow_env, fast_config, slow_config)
        config.training(train_batch_size_per_learner=batch)
        counts = sorted(set(workers or _DEFAULT_WORKERS))
        measurement, rows, checked = _measure(config, counts, batch, horizon, slow_steps, check)
        if as_json:
            typer.echo(_json(measurement, rows, checked))
        else:
            _print(measurement, rows, checked, batch)
        if figure is not None:
            _draw(measurement, rows, checked, batch, figure)


def _config(
    file: Path | None,
    fast_env: str | None,
    slow_env: str | None,
    fast_config: str | None,
    slow_config: str | None,
) -> Any:
    from rllib_offset.experiments import load_experiments, parse_mapping
    from rllib_offset.launch import Cluster, keep_out_noise, prepare_experiment, start_ray

    if file is not None:
        if fast_env or slow_env:
            raise UserError("give a file, or --fast-env and --slow-env, not both")
        experiments, _ = load_experiments(file)
        if len(experiments) > 1:
            raise UserError(f"{file} has {len(experiments)} experiments; keep the one to plan")
        ((name, spec),) = experiments.items()
    else:
        if not (fast_env and slow_env):
            raise UserError("give a YAML file, or both --fast-env and --slow-env")
        name = "plan"
        settings = {
            "env": fast_env,
            "slow_env": slow_env,
            "env_config": parse_mapping(fast_config, option="--fast-config") or {},
            "slow_env_config": parse_mapping(slow_config, option="--slow-config") or {},
        }
        spec = {"run": "OffsetA2C", "config": settings}
    keep_out_noise()
    prepare_experiment(name, spec)
    from ray.tune.registry import get_trainable_cls

    config = get_trainable_cls(spec["run"]).get_default_config().update_from_dict(spec["config"])
    if getattr(config, "slow_env", None) is None:
        raise UserError(f"{name!r} runs {spec['run']}, which has no slow simulator to plan for")
    start_ray(Cluster())
    return config


def _measure(
    config: Any,
    counts: Sequence[int],
    batch: int,
    horizon: int | None,
    slow_steps: int,
    check: bool,
) -> "tuple[Measurement, list[PlanRow], dict[tuple[str, int], float]]":
    from dataclasses import replace

    import numpy as np

    from rllib_offset.planner import config_for, iteration_times_s, measure
    from rllib_offset.planner import plan as predict

    try:
        measurement = measure(config, slow_steps=slow_steps)
        if horizon is not None:
            measurement = replace(measurement, trajectory_steps=horizon)
        rows = predict(measurement, steps=batch, workers=counts)
        checked: dict[tuple[str, int], float] = {}
        for row in rows if check else ():
            for level in ("trajectory", "sample"):
                if level == "trajectory" or row.sample_s is not None:
                    times = iteration_times_s(config_for(config, level=level, workers=row.workers))
                    checked[level, row.workers] = float(np.mean(times))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"cannot measure: {one_line(error)}") from error
    return measurement, rows, checked


def _print(
    measurement: "Measurement",
    rows: "Sequence[PlanRow]",
    checked: dict[tuple[str, int], float],
    batch: int,
) -> None:
    from rllib_offset.planner import best_row

    for name, text in (
        ("slow step", _seconds(measurement.slow_step_s)),
        ("fast + offset step", _seconds(measurement.fast_step_s)),
        ("replay call", f"{_seconds(measurement.call_overhead_s)} besides its steps"),
        ("policy update", _seconds(measurement.policy_update_s)),
        ("fit and broadcast", _seconds(measurement.fit_s)),
        ("batch", f"{batch} steps, episodes of {measurement.trajectory_steps}"),
    ):
        typer.echo(f"{name:<20}{text}")
    if measurement.cpu_share > 0.5:
        typer.echo(
            f"The slow simulator computes: more than {measurement.num_cpus} workers only help on "
            "more CPUs."
        )
    if not measurement.replays_single_steps:
        typer.echo("Sample level needs a pair of level 1: see `rllib check`.")
    typer.echo(f"\nSeconds per batch; serial: {rows[0].serial_s:.3g}")
    typer.echo(f"{'n':>4}{'trajectory':>13}{'sample':>13}{'speed-up':>11}")
    longest = max(row.serial_s for row in rows)
    for row in rows:
        bar = "#" * max(1, round(_BAR * row.best_s / longest))
        cells = [_cell(row.trajectory_s, checked.get(("trajectory", row.workers)))]
        cells.append(_cell(row.sample_s, checked.get(("sample", row.workers))))
        typer.echo(f"{row.workers:>4}{cells[0]:>13}{cells[1]:>13}{row.speedup:>10.1f}x  {bar}")
    if checked:
        typer.echo("Each cell: predicted/measured.")
    best = best_row(rows)
    typer.echo(
        f"\nBest: label_level: {best.faster_level} with num_replay_workers: {best.workers}, "
        f"{best.best_s:.3g} s per batch, {best.speedup:.1f} times faster than serial."
    )


def _cell(predicted_s: float | None, measured_s: float | None) -> str:
    if predicted_s is None:
        return "-"
    return f"{predicted_s:.3g}" + ("" if measured_s is None else f"/{measured_s:.3g}")


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _json(
    measurement: "Measurement",
    rows: "Sequence[PlanRow]",
    checked: dict[tuple[str, int], float],
) -> str:
    from dataclasses import asdict

    from rllib_offset.planner import best_row

    best = best_row(rows)
    measured = [{"level": k[0], "workers": k[1], "seconds": s} for k, s in checked.items()]
    return json.dumps(
        {
            "measurement": asdict(measurement),
            "rows": [
                asdict(row) | {"faster_level": row.faster_level, "speedup": row.speedup}
                for row in rows
            ],
            "measured": measured,
            "best": {"workers": best.workers, "level": best.faster_level, "seconds": best.best_s},
        }
    )


def _draw(
    measurement: "Measurement",
    rows: "Sequence[PlanRow]",
    checked: dict[tuple[str, int], float],
    batch: int,
    path: Path,
) -> None:
    from rllib_offset.figures import figure_of
    from rllib_offset.timing_figures import batch_time_curve

    ax = batch_time_curve(
        measurement.model,
        steps=batch,
        most_workers=max(row.workers for row in rows),
        measured=[
            ("sample" if level == "sample" else "trajectory", n, s)
            for (level, n), s in checked.items()
        ],
        shows_samples=measurement.replays_single_steps,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_of(ax).savefig(path, dpi=150)
    typer.echo(f"curve written to {path}")
