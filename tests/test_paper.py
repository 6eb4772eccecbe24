"""The paper's run at a size of seconds: trained once, shown, compared, and never trained twice."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rllib_offset.results import AGENT_VIEW_NAME, read_results

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

CONFIGS = Path(__file__).parents[1] / "tuned_configs"
ARMS = ("pointmass-transfer", "pointmass-offset-samples")


def paper_run(out, lines):
    from rllib_offset.paper import PaperRun, Scale
    from rllib_offset.paper_timings import TimingScale

    scale = Scale(
        iterations=10,
        timings=TimingScale(seeds=0, planned_workers=()),
        compared_episodes=2,
        compared_cost_s=0.002,
    )
    return PaperRun(
        out=out,
        configs={path.stem: path for path in CONFIGS.glob("*.yaml")},
        seeds=1,
        arms=ARMS,
        scale=scale,
        line=lines.append,
    )


@pytest.fixture(scope="module")
def out(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    paper_run(folder, []).run()
    return folder


def test_the_arms_are_trained_and_shown(out):
    arms = {arm.name: arm for arm in read_results(out)}
    assert set(arms) == {"transfer", "offset-samples"}
    assert arms["transfer"].trains_on_slow is False
    assert arms["offset-samples"].trials[0].slow_steps[-1] < 100
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "fig4-paths-transfer" in page
    assert "fig6-predicted-offset-samples" in page


def test_what_is_finished_is_not_run_again(out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    lines = []
    paper_run(out, lines).run()
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before


def test_a_trial_that_was_cut_off_is_missing(out):
    from rllib_offset.paper import finished_seeds

    assert finished_seeds(out / ARMS[1], iterations=10) == {0}
    assert finished_seeds(out / ARMS[1], iterations=11) == set()
    assert finished_seeds(out / "nothing", iterations=1) == set()


def test_evaluation_is_timed_in_both_simulators_on_the_same_starts(out):
    (checkpoint,) = out.glob("pointmass-offset-samples/*/checkpoint_*")
    from rllib_offset.compare import compare

    comparison = compare(checkpoint, episodes=3, slow_env_config={"step_cost_s": 0.002})
    assert comparison.slow_steps == 300
    assert comparison.slow_step_s >= 0.002
    assert comparison.speedup > 1
    assert comparison.gap == pytest.approx(
        comparison.corrected_returns.mean() - comparison.slow_returns.mean()
    )
    assert json.loads(json.dumps(comparison.to_dict()))["seeds"] == comparison.seeds
    assert "speed-up" in str(comparison)


def test_the_agent_of_a_checkpoint_is_the_one_that_was_evaluated(out):
    """Rolled out from the checkpoint, it returns what the last evaluation of its training said."""
    from rllib_offset.rollouts import greedy_trajectories, restored_runner
    from rllib_offset.seeded_env_runner import EVALUATION_SEED

    (arm,) = (arm for arm in read_results(out) if arm.has_pair)
    (trial,) = arm.trials
    seeds = list(range(EVALUATION_SEED, EVALUATION_SEED + 64))
    for simulator, quantity in (("slow", "truth"), ("training", "promise")):
        runner = restored_runner(trial.checkpoint, simulator)
        returns = [t.rewards.sum() for t in greedy_trajectories(runner, seeds)]
        assert np.mean(returns) == pytest.approx(getattr(trial.evaluations, quantity)[-1])


def test_a_checkpoint_may_be_named_relative_to_the_working_folder(out, monkeypatch):
    from rllib_offset.rollouts import restored_runner

    (checkpoint,) = out.glob("pointmass-offset-samples/*/checkpoint_*")
    monkeypatch.chdir(checkpoint.parent)
    assert restored_runner(Path(checkpoint.name)).module is not None


def test_a_checkpoint_without_a_pair_has_no_slow_simulator(out):
    from rllib_offset.rollouts import restored_runner

    (checkpoint,) = out.glob("pointmass-transfer/*/checkpoint_*")
    with pytest.raises(ValueError, match="has no slow simulator"):
        restored_runner(checkpoint, "slow")
    with pytest.raises(ValueError, match="is no checkpoint"):
        restored_runner(checkpoint / "nothing")


def test_a_view_survives_being_saved(out):
    from rllib_offset.rollouts import AgentView, view_of_checkpoint

    (checkpoint,) = out.glob("pointmass-offset-samples/*/checkpoint_*")
    view = view_of_checkpoint(checkpoint)
    assert view.paths.shape == (5, 101, 2)
    assert view.has_offset_map
    assert view.target_names.tolist() == ["obs[0]", "obs[1]", "obs[2]", "reward"]
    view.save(checkpoint / AGENT_VIEW_NAME)
    again = AgentView.load(checkpoint / AGENT_VIEW_NAME)
    for name, array in vars(view).items():
        assert np.array_equal(getattr(again, name), array, equal_nan=array.dtype.kind == "f")


def test_pictures_of_a_live_algorithm_stay_out_of_text_files(tmp_path):
    from ray.tune.utils.util import SafeFallbackEncoder

    from rllib_offset import OffsetA2CConfig
    from rllib_offset.figure_callback import add_figures, save_agent_view

    short = {"max_episode_steps": 10}
    config = (
        OffsetA2CConfig()
        .environment("rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0", env_config=short)
        .slow_simulator(
            env="rllib_offset.envs:rllib_offset/PointMass-v0",
            env_config=short,
            num_replay_workers=0,
        )
        .labels(level="sample", initial=20)
        .training(train_batch_size_per_learner=100)
    )
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
        add_figures(algorithm, result, interval=2)
        assert "figures" not in result
        add_figures(algorithm, result, interval=1)
        assert set(result["figures"]) == {
            "trajectories",
            "predictor_map",
            "predicted_against_true",
        }
        for picture in result["figures"].values():
            assert picture.ndim == 3
            assert picture.shape[0] == 3
            assert picture.dtype == np.uint8
            packed = pickle.dumps(picture)
            assert len(packed) < picture.size / 5
            assert np.array_equal(pickle.loads(packed), picture)
        text = json.dumps(result["figures"], cls=SafeFallbackEncoder)
        assert len(text) < 300
        before = algorithm.ledger.num_env_steps
        save_agent_view(algorithm, tmp_path)
        assert algorithm.ledger.num_env_steps == before
        assert {path.name for path in tmp_path.iterdir()} == {AGENT_VIEW_NAME, "trajectories.png"}
    finally:
        algorithm.stop()


def test_a_picture_is_saved_before_tune_has_made_the_trials_folder(tmp_path, monkeypatch):
    from pyarrow.fs import LocalFileSystem

    from rllib_offset import figure_callback
    from rllib_offset.rollouts import AgentView

    reward_map = np.zeros((5, 5))
    seen = AgentView(
        paths=np.zeros((1, 3, 2)),
        trained_map=reward_map,
        slow_map=reward_map,
        target=np.zeros(2),
    )
    monkeypatch.setattr(figure_callback, "view_of_algorithm", lambda _: seen)
    folder = tmp_path / "results" / "trial"
    storage = SimpleNamespace(
        storage_filesystem=LocalFileSystem(), trial_fs_path=str(folder), trial_dir_name="trial"
    )
    figure_callback.save_agent_view(SimpleNamespace(_storage=storage), tmp_path)
    pictures = [path / "trajectories.png" for path in (folder, tmp_path)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
