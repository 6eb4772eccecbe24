import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rllib_offset.envs.reward_maps import (
    Distance,
    Noise,
    PseudoSparse,
    RewardOffset,
    Sparse,
    cell_hash,
)

DENSE = Distance()
MAPS = [
    pytest.param(DENSE, id="distance"),
    pytest.param(RewardOffset(DENSE), id="reward-offset"),
    pytest.param(Sparse(DENSE), id="sparse"),
    pytest.param(Sparse(DENSE, zero_to="worst"), id="sparse-worst"),
    pytest.param(PseudoSparse(Sparse(DENSE)), id="pseudo-sparse"),
    pytest.param(Noise(DENSE), id="noise"),
    pytest.param(Noise(RewardOffset(DENSE), sigma=0.1), id="rugged-offset"),
]
CELL_CENTRES = np.stack(np.meshgrid(*[np.arange(-0.975, 1.0, 0.05)] * 2), axis=-1)

positions_in_square = arrays(np.float64, (16, 2), elements=st.floats(-1.0, 1.0))


@pytest.mark.parametrize("reward_map", MAPS)
@given(positions=positions_in_square)
def test_rewards_stay_within_the_bounds_of_their_map(reward_map, positions):
    low, high = np.float32(reward_map.bounds)
    rewards = np.float32(reward_map(positions))
    assert np.all((low <= rewards) & (rewards <= high))


@pytest.mark.parametrize("reward_map", MAPS)
@given(positions=positions_in_square)
def test_a_batch_has_the_same_bits_as_its_positions_one_by_one(reward_map, positions):
    one_by_one = np.array([reward_map(position) for position in positions])
    assert np.array_equal(reward_map(positions), one_by_one)
    assert np.array_equal(reward_map(positions.reshape(4, 4, 2)), one_by_one.reshape(4, 4))


@pytest.mark.parametrize("reward_map", MAPS)
def test_an_equal_map_built_again_gives_equal_rewards(reward_map):
    again = eval(repr(reward_map))
    assert again == reward_map
    assert np.array_equal(again(CELL_CENTRES), reward_map(CELL_CENTRES))


def test_distance_is_zero_at_the_target_and_lowest_in_the_farthest_corner():
    assert DENSE(np.array(DENSE.target)) == 0.0
    assert DENSE(np.array([-1.0, -1.0])) == DENSE.bounds[0] == -np.hypot(1.4, 1.3)


def test_reward_offset_moves_the_best_position_by_the_shift():
    shifted = RewardOffset(DENSE, shift=(-0.8, -0.7))
    assert shifted(np.array([-0.4, -0.4])) == pytest.approx(0.0)


def test_reward_offset_is_flat_where_the_shifted_position_leaves_the_square():
    shifted = RewardOffset(DENSE, shift=(-0.8, 0.0))
    assert shifted(np.array([0.5, 0.1])) == shifted(np.array([0.9, 0.1]))


@pytest.mark.parametrize("zero_to", ["zero", "worst"])
@given(positions=positions_in_square, mix=st.floats(0.0, 1.0))
def test_pseudo_sparse_reward_lies_between_sparse_and_dense(zero_to, positions, mix):
    sparse = Sparse(DENSE, zero_to=zero_to)
    mixed = PseudoSparse(sparse, mix)(positions)
    ends = np.stack([DENSE(positions), sparse(positions)])
    assert np.all((ends.min(axis=0) - 1e-12 <= mixed) & (mixed <= ends.max(axis=0) + 1e-12))


@given(positions=positions_in_square)
def test_a_sparse_reward_is_either_dense_or_zero(positions):
    rewards = Sparse(DENSE)(positions)
    assert np.all((rewards == DENSE(positions)) | (rewards == 0.0))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_the_threshold_is_the_share_of_zeroed_cells(threshold):
    zeroed = Sparse(DENSE, threshold)(CELL_CENTRES) == 0.0
    assert zeroed.mean() == pytest.approx(threshold, abs=0.04)


def test_a_higher_threshold_zeroes_more_cells_and_keeps_the_ones_already_zeroed():
    few, many = (Sparse(DENSE, p)(CELL_CENTRES) == 0.0 for p in (0.3, 0.6))
    assert np.all(many[few])


def test_zeroing_a_negative_reward_as_printed_makes_the_best_positions():
    assert Sparse(DENSE)(CELL_CENTRES).max() > DENSE(CELL_CENTRES).max()
    assert Sparse(DENSE, zero_to="worst")(CELL_CENTRES).max() <= DENSE(CELL_CENTRES).max()


def test_noise_is_a_standard_gaussian_times_sigma_over_the_cells():
    noise = Noise(DENSE, sigma=0.3)(CELL_CENTRES) - DENSE(CELL_CENTRES)
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(0.3, abs=0.02)


def test_noise_is_constant_within_a_cell():
    noise = Noise(DENSE, cell=0.05)
    corner, inside = np.array([0.101, 0.151]), np.array([0.149, 0.199])
    assert noise(corner) - DENSE(corner) == pytest.approx(noise(inside) - DENSE(inside))


def test_a_rugged_pair_differs_by_the_smooth_offset_alone():
    slow, fast = Noise(DENSE, sigma=0.1), Noise(RewardOffset(DENSE), sigma=0.1)
    offset = slow(CELL_CENTRES) - fast(CELL_CENTRES)
    assert offset == pytest.approx(DENSE(CELL_CENTRES) - RewardOffset(DENSE)(CELL_CENTRES))


def test_another_salt_gives_another_map():
    assert not np.array_equal(
        Noise(DENSE, salt=7)(CELL_CENTRES), Noise(DENSE, salt=8)(CELL_CENTRES)
    )
    assert not np.array_equal(
        Sparse(DENSE, salt=7)(CELL_CENTRES), Sparse(DENSE, salt=8)(CELL_CENTRES)
    )


def test_the_hash_spreads_evenly():
    numbers = np.arange(200, dtype=np.uint64)
    hashed = cell_hash(numbers[:, None], numbers[None, :], salt=3)
    counts, _ = np.histogram(hashed, bins=10, range=(0.0, 1.0))
    assert counts.sum() == hashed.size
    assert counts == pytest.approx(hashed.size / 10, rel=0.1)


def test_maps_are_the_same_in_another_process():
    code = (
        "import numpy as np\n"
        "from rllib_offset.envs.reward_maps import *\n"
        "x = np.linspace(-1, 1, 50).reshape(25, 2)\n"
        "print((Noise(Sparse(Distance())))(x).tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = Noise(Sparse(DENSE))(np.linspace(-1, 1, 50).reshape(25, 2))
    assert other.stdout.strip() == here.tobytes().hex()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Distance(target=(2.0, 0.0)), "`target` must lie in the square"),
        (lambda: Sparse(DENSE, threshold=1.5), "`threshold` must be in"),
        (lambda: Sparse(DENSE, zero_to="one"), "`zero_to` must be"),
        (lambda: PseudoSparse(Sparse(DENSE), mix=-0.1), "`mix` must be in"),
        (lambda: Noise(DENSE, sigma=-1.0), "`sigma` must be finite"),
        (lambda: Noise(DENSE, cell=0.0), "`cell` must be in"),
        (lambda: Noise(DENSE, salt=-1), "`salt` must be in"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_rule(build, message):
    with pytest.raises(ValueError, match=message):
        build()
