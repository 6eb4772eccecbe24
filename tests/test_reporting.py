from types import SimpleNamespace

import pytest

from rllib_offset.reporting import (
    FIGURE_NAME,
    TrialReport,
    find_metric,
    root_cause,
    status_line,
    summary,
)

OFFSET_RESULT = {
    "training_iteration": 7,
    "time_this_iter_s": 2.0,
    "time_total_s": 75.0,
    "num_env_steps_sampled_lifetime": 7000,
    "env_runners": {"episode_return_mean": -35.25},
    "offset": {"holdout_mae": 0.0125},
    "slow": {"num_env_steps_lifetime": 7000, "sim_time_s_lifetime": 3.5},
    "evaluation": {
        "env_runners": {"episode_return_mean": -36.5},
        "corrected_episode_return_mean": -36.0,
        "fidelity_gap": 0.5,
        "normalised_score": 0.981,
    },
}


@pytest.fixture
def trial(tmp_path):
    folder = tmp_path / "OffsetA2C_0"
    folder.mkdir()
    return SimpleNamespace(
        path=str(folder),
        checkpoint=SimpleNamespace(path="the/checkpoint"),
        storage=SimpleNamespace(experiment_dir_name="demo"),
        trainable_name="OffsetA2C",
        error_file=None,
    )


def report_of(*results):
    report = TrialReport(tag="")
    for result in results:
        report.update(result)
    return report


def test_a_status_line_shows_what_the_iteration_brought():
    line = status_line(report_of(OFFSET_RESULT), planned_iterations=300)
    words = line.replace(",", "").split()
    assert words[:2] == ["iter", "7/300"]
    for text in ("3500 steps/s", "corrected -35.25", "slow -36.50", "hold-out 0.0125"):
        assert text in " ".join(words)
    assert " ".join(words).endswith("slow steps 7000")


def test_a_status_line_without_metrics_is_dashes():
    line = " ".join(status_line(report_of({"offset": {}})).split())
    assert line == "iter - - steps/s corrected - slow - hold-out - slow steps -"


def test_an_evaluation_that_rllib_attaches_again_is_shown_once():
    again = OFFSET_RESULT | {"training_iteration": 8}
    assert "slow   -36.50" in status_line(report_of(OFFSET_RESULT))
    assert "slow        -" in status_line(report_of(OFFSET_RESULT, again))


def test_steps_per_second_count_the_steps_of_the_iteration():
    later = {"num_env_steps_sampled_lifetime": 8000, "time_this_iter_s": 0.5}
    assert report_of(OFFSET_RESULT, later).steps_per_s == 2000.0


def test_an_algorithm_without_a_slow_simulator_shows_its_own_returns():
    line = status_line(report_of({"env_runners": {"episode_return_mean": 21.0}}))
    assert "return    21.00" in line
    assert "slow" not in line


def test_the_summary_remembers_the_last_evaluation(trial):
    later = {key: value for key, value in OFFSET_RESULT.items() if key != "evaluation"}
    text = summary(trial, report_of(OFFSET_RESULT, later | {"training_iteration": 8}))
    assert text.startswith("demo: OffsetA2C\n")
    for row in (
        "  iterations              8 in 1 min 15 s",
        "  truth (slow simulator)  -36.50",
        "  promise (fast + offset) -36.00",
        "  gap (promise - truth)   0.50",
        "  normalised score        0.981",
        "  slow steps bought       7,000",
        "  slow seconds            3.5",
        "  checkpoint              the/checkpoint",
    ):
        assert row in text.splitlines()
    assert "figure" not in text


def test_the_summary_names_the_figure_when_there_is_one(trial, tmp_path):
    figure = tmp_path / "OffsetA2C_0" / FIGURE_NAME
    figure.touch()
    assert f"  figure                  {figure}" in summary(trial, report_of(OFFSET_RESULT))


def test_the_root_cause_is_the_last_named_exception(trial, tmp_path):
    (tmp_path / "OffsetA2C_0" / "error.txt").write_text(
        "Traceback (most recent call last):\n  File 'a', line 1\nKeyError: 'first'\n\n"
        "ray.exceptions.RayTaskError: it died\nValueError: no slow simulator;\nsome advice\n"
    )
    assert root_cause(trial) == "ValueError: no slow simulator;"


def test_a_trial_without_an_error_file_says_so(trial):
    assert root_cause(trial) == "no error file was written"


@pytest.mark.parametrize("value", [None, float("nan"), "text", {"deeper": 1}])
def test_what_is_not_a_number_is_missing(value):
    assert find_metric({"a": {"b": value}}, "a", "b") is None
    assert find_metric({"a": value}, "a", "b") is None
