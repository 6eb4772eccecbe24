from pathlib import Path
from types import SimpleNamespace

import pytest

from rllib_offset.console import display, show_next_commands, waiting
from rllib_offset.reporting import (
    FIGURE_NAME,
    StatusLines,
    TrialReport,
    best_trial,
    find_metric,
    fraction_done,
    next_commands,
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
    before = {"num_env_steps_sampled_lifetime": 0}
    line = status_line(report_of(before, OFFSET_RESULT), planned_iterations=300)
    words = line.replace(",", "").split()
    assert words[:2] == ["iter", "7/300"]
    for text in ("3500 steps/s", "corrected -35.25", "slow -36.50", "hold-out 0.0125"):
        assert text in " ".join(words)
    assert " ".join(words).endswith("slow steps 7000")


def test_a_status_line_says_that_the_predictor_may_be_exploited():
    exploited = {"offset": {"exploitation": 1.0}}
    assert status_line(report_of(exploited)).endswith("may be exploiting the predictor")
    assert "exploiting" not in status_line(report_of({"offset": {"exploitation": 0.0}}))


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
    assert "labels lost" not in text


def test_the_summary_tells_of_labels_that_were_lost(trial):
    slow = OFFSET_RESULT["slow"] | {"num_labels_lost_lifetime": 12}
    text = summary(trial, report_of(OFFSET_RESULT | {"slow": slow}))
    assert "  labels lost             12, failed in every attempt" in text.splitlines()


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


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ({"training_iteration": 14}, 0.5),
        ({"training_iteration": 14, "num_env_steps_sampled_lifetime": 10_000}, 0.7),
        ({"slow/num_env_steps_lifetime": 3500}, 1.0),
        ({"time_total_s": 750}, 0.1),
        ({"env_runners/episode_return_mean": -10}, 0.0),
        ({}, 0.0),
    ],
)
def test_how_far_a_trial_is_follows_from_the_criterion_that_is_nearest(stop, expected):
    assert fraction_done(OFFSET_RESULT, stop) == expected


def trial_of(number, checkpoint="the/checkpoint", status="RUNNING"):
    return SimpleNamespace(
        trial_id=str(number),
        experiment_tag=str(number),
        evaluated_params={"config/lr": 0.00123456789, "seed": number},
        status=status,
        stopping_criterion={"training_iteration": 14},
        checkpoint=SimpleNamespace(path=checkpoint) if checkpoint else None,
        path=f"results/my run/trial{number}",
        last_result={},
        storage=SimpleNamespace(experiment_dir_name="demo"),
    )


def test_the_progress_of_a_run_is_that_of_all_its_trials():
    progress = []
    status = StatusLines(lambda line: None, on_progress=progress.append)
    status.setup(total_num_samples=2)
    first, second = trial_of(1), trial_of(2)
    status.on_trial_result(1, [first], first, OFFSET_RESULT)
    status.on_trial_complete(2, [first], first)
    status.on_trial_result(3, [first, second], second, OFFSET_RESULT)
    assert progress == [0.25, 0.5, 0.75]


def test_trials_are_told_apart_by_what_they_vary():
    lines = []
    status = StatusLines(lines.append, shows_experiment=True)
    status.setup(total_num_samples=2)
    status.on_trial_result(1, [], trial_of(1), OFFSET_RESULT)
    assert lines[0].startswith("demo lr=0.001235 seed=1  iter")


def test_what_a_resumed_run_had_finished_counts_as_complete():
    status = StatusLines(lambda line: None)
    done, going = trial_of(1, status="TERMINATED"), trial_of(2)
    done.last_result = OFFSET_RESULT
    status.on_step_begin(1, [done, going])
    assert status.report_of(done).is_complete
    assert status.report_of(done).last_result == OFFSET_RESULT
    assert not status.report_of(going).is_complete


def test_the_speed_of_a_resumed_trial_is_not_that_of_all_its_steps():
    assert report_of(OFFSET_RESULT | {"training_iteration": 7}).steps_per_s is None


def test_an_evaluation_that_is_only_attached_again_is_no_other_one():
    def result(value, rate):
        found = {"episode_return_mean": value, "num_env_steps_sampled_lifetime": 6400.0 * rate}
        found["num_env_steps_sampled_lifetime_throughput"] = rate
        return {"evaluation": {"env_runners": found}}

    assert report_of(result(-9.0, 1.0)).is_evaluated
    assert not report_of(result(-9.0, 1.0), result(-9.0, 2.0)).is_evaluated
    assert report_of(result(-9.0, 1.0), result(-8.0, 1.0)).is_evaluated


def test_the_best_trial_is_the_one_with_the_highest_true_return():
    status = StatusLines(lambda line: None)
    good, bad, unsaved = trial_of(1), trial_of(2), trial_of(3, checkpoint=None)
    for trial, value in ((good, -1.0), (bad, -9.0), (unsaved, 5.0)):
        result = {"evaluation": {"env_runners": {"episode_return_mean": value}}}
        status.report_of(trial).update(result)
    assert best_trial([bad, good, unsaved], status) is good
    assert best_trial([unsaved], status) is None


def test_the_next_commands_can_be_pasted_into_a_shell(capsys):
    commands = dict(next_commands(trial_of(1, checkpoint="my run/checkpoint")))
    assert commands["try the agent"] == "rllib evaluate 'results/my run/trial1'"
    assert commands["read about the run"] == "rllib report 'results/my run'"
    show_next_commands(list(commands.items()))
    assert "  read about the run  rllib report 'results/my run'\n" in capsys.readouterr().out


def test_a_path_at_home_is_shown_as_it_is_typed(monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    trial = trial_of(1)
    trial.path = str(Path.cwd() / "my run" / "trial1")
    assert dict(next_commands(trial))["try the agent"] == "rllib evaluate ~/'my run/trial1'"


def test_a_log_shows_lines_and_no_bar(capsys):
    with display() as shown:
        shown.line("one")
        shown.progress(0.5)
    with waiting("for something"):
        pass
    assert capsys.readouterr().out == "one\n"


def pretend_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_a_terminal_shows_a_bar_with_the_time_left(monkeypatch, capsys):
    pretend_terminal(monkeypatch)
    with display() as shown:
        shown.line("one")
        shown.progress(0.5)
    shown_text = capsys.readouterr().out
    assert "one" in shown_text
    assert "50%" in shown_text
    assert "left" in shown_text


def test_a_bar_without_an_end_in_sight_shows_no_percentage(monkeypatch, capsys):
    pretend_terminal(monkeypatch)
    with display() as shown:
        shown.line("one")
        shown.progress(0.0)
    assert "%" not in capsys.readouterr().out


def test_a_terminal_shows_what_is_waited_for(monkeypatch, capsys):
    pretend_terminal(monkeypatch)
    with waiting("reading the checkpoint"):
        pass
    assert "reading the checkpoint" in capsys.readouterr().out
