import numpy as np
import pytest

from rllib_offset.results import ResultsError, common_curve, mean_and_interval, read_results
from tests.fake_results import BASELINE, OFFSET, write_paper, write_trial


@pytest.fixture
def arms(tmp_path):
    return {arm.name: arm for arm in read_results(write_paper(tmp_path))}


def test_experiments_become_arms_without_the_words_they_share(arms):
    assert list(arms) == ["baseline", "offset", "offset-serial", "transfer"]
    assert [trial.seed for trial in arms["offset"].trials] == [0, 1, 2]


def test_plain_arms_are_told_apart_by_the_pair_beside_them(arms):
    assert arms["baseline"].trains_on_slow is True
    assert arms["transfer"].trains_on_slow is False
    assert arms["offset"].trains_on_slow is None
    assert arms["offset-serial"].is_serial


def test_what_is_not_known_to_be_slow_counts_no_slow_steps(tmp_path):
    write_trial(tmp_path / "alone" / "trial", BASELINE)
    (arm,) = read_results(tmp_path)
    assert arm.trains_on_slow is None
    assert np.isnan(arm.trials[0].slow_steps).all()


def test_slow_steps_are_the_ledgers_or_the_steps_of_the_slow_environment(arms):
    assert arms["offset"].trials[0].slow_steps[-1] == 20_000
    assert arms["baseline"].trials[0].slow_steps[-1] == 20_000
    assert arms["transfer"].trials[0].slow_steps[-1] == 0


def test_an_evaluation_that_rllib_repeats_counts_once(arms):
    evaluations = arms["offset"].trials[0].evaluations
    assert evaluations.env_steps.tolist() == [10_000, 20_000]
    assert evaluations.truth.tolist() == [-44.5, -4.5]
    assert evaluations.promise.tolist() == [-44.0, -4.0]


def test_an_arm_ends_with_the_last_evaluation_of_each_seed(arms):
    assert arms["baseline"].finals() == pytest.approx([-4.0, -4.1, -4.2])


def test_settings_that_differ_make_arms_of_one_experiment(tmp_path):
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            folder = tmp_path / "mine" / f"{lr}-{seed}"
            write_trial(folder, OFFSET | {"lr": lr}, seed=seed)
    assert [arm.name for arm in read_results(tmp_path)] == ["mine lr=0.1", "mine lr=0.2"]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    folder = write_trial(tmp_path / "a" / "trial", OFFSET)
    with (folder / "result.json").open("a") as file:
        file.write('{"training_iteration": 21, "num_env')
    (arm,) = read_results(tmp_path)
    assert len(arm.trials[0].rows) == 20


def test_a_resumed_trial_counts_each_iteration_once(tmp_path):
    folder = write_trial(tmp_path / "a" / "trial", OFFSET)
    lines = (folder / "result.json").read_text().splitlines()
    (folder / "result.json").write_text("\n".join(lines + lines[-5:]) + "\n")
    (arm,) = read_results(tmp_path)
    assert len(arm.trials[0].rows) == 20


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder.rmdir(), "no such folder"),
        (lambda folder: None, "holds no results"),
        (lambda folder: (folder / "result.json").write_text("{x\n{}\n"), "line 1 is damaged"),
    ],
    ids=["missing", "empty", "damaged"],
)
def test_a_folder_without_results_is_refused_in_one_line(tmp_path, prepare, message):
    folder = tmp_path / "results"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(ResultsError, match=message) as caught:
        read_results(folder)
    assert "\n" not in str(caught.value)


def test_the_interval_is_students(tmp_path):
    mean, half = mean_and_interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / np.sqrt(3))  # t(0.975, 2) sd / sqrt(n)
    assert np.isnan(mean_and_interval(np.array([1.0]))[1])


def test_curves_of_different_lengths_meet_where_all_go():
    x, values = common_curve([(np.arange(3.0), np.ones(3)), (np.arange(2.0), np.zeros(2))])
    assert x.tolist() == [0.0, 1.0]
    assert values.shape == (2, 2)
