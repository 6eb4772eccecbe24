"""The verbs besides `train`: help, check, example, evaluate."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rllib_offset import cli
from rllib_offset.commands.example import find_examples
from rllib_offset.envs.point_mass import PointMassVectorEnv
from rllib_offset.evaluation import find_checkpoint
from rllib_offset.played_episodes import PlayedEpisode, write_frames, write_steps
from rllib_offset.user_errors import UserError

POINT_MASS = "rllib_offset.envs:rllib_offset/PointMass-v0"
REWARD_OFFSET = "rllib_offset.envs:rllib_offset/RewardOffsetPointMass-v0"
VERBS = [
    [],
    ["train"],
    ["train", "file"],
    ["evaluate"],
    ["check"],
    ["propose"],
    ["example"],
    ["example", "list"],
    ["example", "get"],
    ["example", "run"],
]


def run(*words):
    return CliRunner().invoke(cli.app, list(words))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb):
    result = run(*verb, "--help")
    assert result.exit_code == 0
    assert "Example: rllib" in result.output


def test_the_verbs_are_listed_by_what_is_needed_first():
    listed = re.findall(r"^. (\S+) {2,}", run("--help").output.partition("Commands")[2], re.M)
    assert listed[:4] == ["train", "evaluate", "report", "example"]
    assert len(listed) == len(set(listed))


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; from typer.testing import CliRunner; from rllib_offset.cli import app;"
        f"verbs = {VERBS!r};"
        "assert not any(CliRunner().invoke(app, [*v, '--help']).exit_code for v in verbs);"
        "assert not {'ray', 'torch', 'matplotlib'} & sys.modules.keys();"
        "assert time.process_time() < len(verbs)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rllib ev", ["evaluate"]),
        ("rllib train file --checkpoint-f", ["--checkpoint-freq"]),
        ("rllib train --algo Off", ["OffsetA2C", "OffsetPPO"]),
        ("rllib example run de", ["demo"]),
    ],
)
def test_a_shell_completes_verbs_options_and_names(words, expected):
    environment = {"_RLLIB_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split()) - 1)
    result = CliRunner().invoke(cli.app, [], prog_name="rllib", env=environment)
    assert result.stdout.split() == expected


def test_the_version_is_told():
    assert run("--version").output.startswith("rllib-offset ")


# check


def test_check_says_in_words_what_a_pair_allows():
    result = run("check", REWARD_OFFSET, POINT_MASS, "--steps", "5")
    assert result.exit_code == 0
    assert "level 2" in result.stdout


def test_check_speaks_json():
    result = run("check", REWARD_OFFSET, POINT_MASS, "--steps", "5", "--json")
    report = json.loads(result.stdout)
    assert report["level"] == 2
    assert report["dynamics"] == "same"


def test_a_simulator_that_prints_leaves_the_json_whole():
    result = run("check", "tests.envs.PrintingEnv", "tests.envs.PrintingEnv", "--json")
    assert json.loads(result.stdout)["level"] == 2
    assert "one more step" in result.stderr


def test_a_problem_is_told_once():
    result = run("check", "tests.envs.StatefulEnv", "tests.envs.UnmakeableEnv")
    assert result.exit_code == 2
    assert (result.stdout + result.stderr).count("no licence") == 1


def test_a_pair_with_problems_is_exit_code_2():
    result = run("check", "CartPole-v1", POINT_MASS, "--json")
    assert result.exit_code == 2
    assert "action_space" in " ".join(json.loads(result.stdout)["problems"])


def test_what_the_environments_are_made_with_can_be_given():
    result = run("check", POINT_MASS, POINT_MASS, "--fast-config", "{nonsense: 1}", "--steps", "2")
    assert result.exit_code == 2
    assert "nonsense" in result.stderr


# example


def test_examples_are_listed_with_what_they_show():
    lines = run("example", "list").stdout.splitlines()
    assert len(lines) == len(find_examples())
    assert any(line.startswith("demo ") and line.endswith(".") for line in lines)


def test_the_list_can_be_filtered():
    lines = run("example", "list", "-f", "CARTPOLE").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["cartpole-a2c"]
    assert run("example", "list", "-f", "no such thing").exit_code == 2


def test_an_example_is_printed_as_it_is():
    assert run("example", "get", "demo").stdout == find_examples()["demo"].read_text()


def test_no_two_examples_are_described_alike():
    descriptions = [line.split(None, 1)[1] for line in run("example", "list").stdout.splitlines()]
    assert len(descriptions) == len(set(descriptions))


def test_a_misspelt_example_is_refused_with_the_nearest_one():
    result = run("example", "get", "dmeo")
    assert result.exit_code == 2
    assert "'demo'" in result.stderr


# evaluate: what is written


@pytest.fixture
def episode():
    return PlayedEpisode(
        obs=np.arange(6.0).reshape(3, 2),
        actions=np.array([[0.5], [-0.5]]),
        rewards=np.array([1.0, 2.0]),
        terminated=True,
        truncated=False,
        seed=7,
        frames=[np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 200)],
    )


def test_steps_are_written_as_parquet(episode, tmp_path):
    write_steps([episode, episode], tmp_path / "steps.parquet")
    rows = pq.read_table(tmp_path / "steps.parquet").to_pylist()
    assert [row["episode"] for row in rows] == [1, 1, 2, 2]
    assert rows[1] == {
        "episode": 1,
        "step": 1,
        "seed": 7,
        "obs": [2.0, 3.0],
        "action": [-0.5],
        "reward": 2.0,
        "next_obs": [4.0, 5.0],
        "terminated": True,
        "truncated": False,
    }


def test_steps_are_written_as_json_lines(episode, tmp_path):
    write_steps([episode], tmp_path / "new" / "steps.jsonl")
    lines = (tmp_path / "new" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["reward"] for line in lines] == [1.0, 2.0]


def test_frames_are_written_as_a_gif_or_as_a_folder(episode, tmp_path):
    image = pytest.importorskip("PIL.Image")
    write_frames([episode], tmp_path / "episode.gif")
    with image.open(tmp_path / "episode.gif") as picture:
        assert picture.n_frames == 3
    write_frames([episode], tmp_path / "frames")
    assert len(list((tmp_path / "frames").glob("episode_001_step_*.png"))) == 3


def test_frames_are_written_as_a_film(episode, tmp_path):
    av = pytest.importorskip("av")
    odd = replace(episode, frames=[np.full((17, 33, 3), 200, np.uint8)] * 5)
    write_frames([odd, odd], tmp_path / "new" / "episode.mp4")
    with av.open(str(tmp_path / "new" / "episode.mp4")) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(pictures) == 10
    assert pictures[0].shape == (16, 32, 3)
    assert pictures[-1].mean() == pytest.approx(200, abs=3)


def test_no_frames_are_refused(episode, tmp_path):
    with pytest.raises(UserError, match="no pictures"):
        write_frames([], tmp_path / "x.gif")


def test_a_folder_of_several_trials_is_refused(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name / "checkpoint_000000"
        folder.mkdir(parents=True)
        (folder / "class_and_ctor_args.pkl").touch()
    with pytest.raises(UserError, match=r"2 trials; give the folder of one, e.g. .*/a$"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path / "a") == tmp_path / "a" / "checkpoint_000000"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such checkpoint"),
        (["."], "holds no checkpoint"),
        ([".", "--out", "x.csv"], "--out must end in .parquet or .jsonl"),
        ([".", "--render", "x.avi"], "--render must end in .mp4 or .gif, or name a folder"),
        ([".", "--compare", "--steps", "3"], "--compare takes --episodes and --env-config only"),
    ],
)
@pytest.mark.usefixtures("noise_comes_back")
def test_a_mistake_in_evaluate_is_one_line(words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


# evaluate: what is played


@pytest.fixture(scope="module")
def checkpoint(ray_cluster, tmp_path_factory):
    """An untrained agent: whether it is any good is tested elsewhere."""
    from rllib_offset import OffsetA2CConfig

    config = (
        OffsetA2CConfig()
        .environment(REWARD_OFFSET)
        .slow_simulator(env=POINT_MASS, num_replay_workers=0)
        .training(train_batch_size_per_learner=200)
    )
    algo = config.build_algo()
    folder = tmp_path_factory.mktemp("agent") / "checkpoint_000000"
    algo.save_to_path(folder)
    algo.stop()
    return folder


@pytest.mark.ray
@pytest.mark.usefixtures("noise_comes_back")
@pytest.mark.filterwarnings("ignore")
class TestEvaluate:
    def test_episodes_are_played_in_the_slow_simulator(self, checkpoint, tmp_path):
        out = tmp_path / "x.parquet"
        result = run("evaluate", str(checkpoint), "--episodes", "2", "--out", str(out))
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert POINT_MASS in lines[0]
        assert lines[1].startswith("Episode #1: return: -")
        assert lines[2].startswith("Episode #2: return: -")
        table = pq.read_table(out)
        assert table.num_rows == 200
        returns = sum(row["reward"] for row in table.to_pylist()[:100])
        assert float(lines[1].split()[-1]) == pytest.approx(returns, rel=1e-4)

    def test_pictures_are_taken(self, checkpoint, tmp_path):
        short = ("--env-config", "{max_episode_steps: 2}", "--episodes", "2")
        words = ("--env", POINT_MASS, *short, "--render", str(tmp_path / "frames"))
        result = run("evaluate", str(checkpoint), *words)
        assert result.exit_code == 0, result.output
        assert len(list((tmp_path / "frames").iterdir())) == 6

    def test_another_environment_and_a_number_of_steps(self, checkpoint):
        result = run("evaluate", str(checkpoint), "--env", REWARD_OFFSET, "--steps", "150")
        assert result.exit_code == 0, result.output
        assert "over 2 episodes, 200 steps" in result.stdout

    @pytest.mark.parametrize(
        ("episodes", "steps", "played"), [("2", "100000", 2), ("10", "150", 2), ("3", "50", 1)]
    )
    def test_the_first_limit_that_is_reached_ends_it(self, checkpoint, episodes, steps, played):
        taken = []
        step = PointMassVectorEnv.step

        def counted(env, actions):
            taken.append(len(actions))
            return step(env, actions)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PointMassVectorEnv, "step", counted)
            result = run("evaluate", str(checkpoint), "--episodes", episodes, "--steps", steps)
        assert result.exit_code == 0, result.output
        assert f"over {played} episodes, {100 * played} steps" in result.stdout
        assert sum(taken) == 100 * played

    def test_the_slow_simulator_may_cost_more_when_compared(self, checkpoint):
        short = ("--episodes", "2", "--env-config", "{step_cost_s: 0.01}")
        result = run("evaluate", str(checkpoint), "--compare", *short)
        assert result.exit_code == 0, result.output
        rows = [line.rsplit("  ", 1) for line in result.stdout.splitlines()]
        told = {name.strip(): text.strip() for name, text in rows}
        assert told["slow steps taken"] == "200"
        assert float(told["time per step, slow"].removesuffix(" ms")) >= 10
        assert float(told["speed-up"]) > 2  # about 100 where nothing else runs

    def test_an_environment_that_does_not_fit_is_one_line(self, checkpoint):
        result = run("evaluate", str(checkpoint), "--env", "Pendulum-v1")
        assert result.exit_code == 2
        assert "not those that it was trained with" in result.stderr

    def test_an_algorithm_that_is_not_the_checkpoints_is_refused(self, checkpoint):
        result = run("evaluate", str(checkpoint), "--algo", "PPO")
        assert result.exit_code == 2
        assert "made by OffsetA2C" in result.stderr
