"""Proposed designs: promised in fast + offset, verified in the slow simulator, corrected."""

from dataclasses import replace

import numpy as np
import pytest

from rllib_offset.env_runner import OffsetBroadcast
from rllib_offset.numpy_predictor import NumpyPredictor
from rllib_offset.proposals import _Proposer, propose, summarise
from rllib_offset.rollouts import restored_pair, restored_runner
from tests.test_commands import run

HAND = "rllib_offset.envs:rllib_offset/OpAmpHand-v0"  # both simulators: the offset is zero
TARGET = {"gain": 100.0, "bandwidth": 1e6, "phase_margin": 10.0, "current": 1e-2}  # any design

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    """Train for two short iterations; return the checkpoint and the ledger's labels."""
    from rllib_offset import OffsetPPOConfig

    config = (
        OffsetPPOConfig()
        .environment(HAND)
        .slow_simulator(env=HAND, num_replay_workers=0)
        .labels(initial=8, choice="ends", rounds={"labels": 4, "interval": 1, "probe_labels": 2})
        .offset(initial_steps=2, steps_per_iteration=2, ensemble_size=1)
        .training(train_batch_size_per_learner=60, minibatch_size=30, num_epochs=1)
        .env_runners(num_envs_per_env_runner=4)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    labels = [algorithm.train()["slow"]["num_env_steps_lifetime"] for _ in range(2)]
    checkpoint = tmp_path_factory.mktemp("proposals") / "checkpoint"
    algorithm.save_to_path(str(checkpoint))
    algorithm.stop()
    return checkpoint, labels


def test_a_round_that_was_predicted_well_leaves_probes(trained):
    assert trained[1] == [8 + 4, 8 + 4 + 2]


def test_a_promise_of_the_slow_simulator_itself_is_kept(trained):
    (proposal,) = propose(trained[0], env_config={"target": TARGET})
    (attempt,) = proposal.attempts
    assert (attempt.promised_passes, attempt.passes, proposal.slow_steps) == (True, True, 1)
    for name, value in attempt.promised.items():
        assert attempt.verified[name] == pytest.approx(value, rel=1e-5)
    assert set(proposal.design) >= {"load", "compensation"}


def test_a_design_that_fails_is_tried_as_often_as_allowed(trained):
    impossible = TARGET | {"gain": 1e6}
    (proposal,) = propose(trained[0], env_config={"target": impossible}, retries=1)
    assert (proposal.passes, len(proposal.attempts), proposal.slow_steps) == (False, 2, 2)


def test_without_verification_no_slow_step_is_spent(trained):
    proposals = propose(trained[0], seeds=range(3), verify=False)
    assert summarise(proposals).slow_steps == 0
    assert all(proposal.passes is None for proposal in proposals)


def test_a_broken_promise_corrects_the_next_one(trained):
    checkpoint, _ = trained
    runner = restored_runner(checkpoint, lanes=1, env_config={"target": TARGET | {"gain": 1e6}})
    correction = runner.offset.correction
    flattering = NumpyPredictor(
        [np.zeros((1, 18, 4), np.float32)],
        [np.zeros((1, 1, 4), np.float32)],
        input_mean=np.zeros(18, np.float32),
        input_std=np.ones(18, np.float32),
        output_mean=np.array([20.0, 0, 0, 0], np.float32),  # of ln(gain): everything passes
        output_scale=np.ones(4, np.float32),
    )
    runner.set_offset(OffsetBroadcast(0, replace(correction, predictor=flattering)))
    proposer = _Proposer(runner, restored_pair(checkpoint).make_slow())
    (step,) = proposer.best_steps([0])
    first, second = proposer.with_retries(0, proposer.attempt(step, verify=True), 1).attempts
    assert (first.promised_passes, first.passes) == (True, False)
    assert not second.promised_passes
    assert second.promised["gain"] == pytest.approx(second.verified["gain"], rel=1e-4)
    runner.stop()


def test_the_command_prints_design_promise_and_truth(trained):
    result = run("propose", str(trained[0]), "--retries", "0")
    assert result.exit_code == 0, result.output
    for word in ("load", "promised", "verified", "gain", "slow steps spent: 1"):
        assert word in result.output


def test_the_command_sums_up_many_tasks(trained):
    result = run("propose", str(trained[0]), "--episodes", "5", "--retries", "0")
    assert "verified at once" in result.output
    assert "slow steps" in result.output


def test_the_command_says_what_is_wrong_with_a_target(trained):
    result = run("propose", str(trained[0]), "--env-config", '{"target": {"gain": 1}}')
    assert result.exit_code == 2
    assert "`target` needs" in result.output
