import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.paired_data import PairedBuffer


def numbered(count, start=0):
    """Labels that carry their own number as input and ten times it as offset."""
    x = np.arange(start, start + count, dtype=np.float32)[:, None]
    return x, 10 * x


def numbers_in(buffer):
    return sorted(np.concatenate([buffer.train()[0], buffer.holdout()[0]])[:, 0].tolist())


@given(sizes=st.lists(st.integers(0, 40), max_size=12), fraction=st.floats(0, 0.5))
def test_every_label_is_on_exactly_one_side_with_its_own_offset(sizes, fraction):
    buffer = PairedBuffer(1, 1, holdout_fraction=fraction)
    for size in sizes:
        buffer.add(*numbered(size, buffer.num_added))
    assert numbers_in(buffer) == list(range(sum(sizes)))
    assert len(buffer) == buffer.num_train + buffer.num_holdout == sum(sizes)
    for inputs, offsets in (buffer.train(), buffer.holdout()):
        np.testing.assert_array_equal(offsets, 10 * inputs)
        assert np.all(np.diff(inputs[:, 0]) > 0)  # oldest first


@given(sizes=st.lists(st.integers(0, 60), max_size=12), capacity=st.integers(1, 80))
def test_only_the_newest_labels_are_kept_beyond_capacity(sizes, capacity):
    buffer = PairedBuffer(1, 1, capacity=capacity)
    for size in sizes:
        buffer.add(*numbered(size, buffer.num_added))
    total = sum(sizes)
    assert numbers_in(buffer) == list(range(max(0, total - capacity), total))


@given(
    groups=st.lists(st.integers(-3, 12), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    fraction=st.floats(0, 0.5),
)
def test_a_group_is_never_split_and_the_first_one_always_trains(groups, cuts, fraction):
    buffer = PairedBuffer(1, 1, holdout_fraction=fraction)
    sides = {}
    for part in np.split(np.array(groups), sorted(min(cut, len(groups)) for cut in cuts)):
        held_out = buffer.add(*numbered(len(part), buffer.num_added), part)
        for group, side in zip(part.tolist(), held_out.tolist(), strict=True):
            assert sides.setdefault(group, side) == side
    assert sides[groups[0]] is False


@pytest.mark.parametrize("grouped", [False, True])
def test_the_holdout_is_spread_evenly(grouped):
    buffer = PairedBuffer(1, 1, holdout_fraction=0.1)
    held_out = buffer.add(*numbered(1000), np.arange(1000) * 7 if grouped else None)
    in_each_hundred = held_out.reshape(10, 100).sum(axis=1)
    assert set(in_each_hundred.tolist()) <= {9, 10, 11}


def test_the_split_does_not_depend_on_how_labels_are_dealt():
    at_once, one_by_one = PairedBuffer(1, 1), PairedBuffer(1, 1)
    at_once.add(*numbered(50))
    for number in range(50):
        one_by_one.add(*numbered(1, number))
    np.testing.assert_array_equal(at_once.holdout()[0], one_by_one.holdout()[0])


def test_a_holdout_fraction_of_zero_holds_nothing_out():
    buffer = PairedBuffer(1, 1, holdout_fraction=0)
    buffer.add(*numbered(500))
    assert buffer.num_holdout == 0


def test_labels_before_a_number_can_be_dropped():
    buffer = PairedBuffer(1, 1)
    buffer.add(*numbered(30))
    mark = buffer.num_added
    buffer.add(*numbered(5, mark))
    buffer.drop_before(mark)
    assert numbers_in(buffer) == [30, 31, 32, 33, 34]
    assert buffer.num_added == 35


def test_views_cannot_be_written_to():
    buffer = PairedBuffer(1, 1)
    buffer.add(*numbered(3))
    with pytest.raises(ValueError, match="read-only"):
        buffer.train()[0][0] = 1
    buffer.add(*numbered(3, 3))  # the buffer itself still can


def test_a_restored_buffer_continues_like_the_original():
    original, restored = (PairedBuffer(1, 1, capacity=60) for _ in range(2))
    original.add(*numbered(50), np.arange(50) // 5)
    restored.set_state(original.get_state())
    for buffer in (original, restored):
        buffer.add(*numbered(40, 50), np.arange(50, 90) // 5)
        buffer.add(*numbered(7, 90))
    for side in ("train", "holdout"):
        for a, b in zip(getattr(original, side)(), getattr(restored, side)(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_clear_forgets_everything():
    buffer = PairedBuffer(1, 1)
    buffer.add(*numbered(50))
    buffer.clear()
    assert (len(buffer), buffer.num_holdout, buffer.num_added) == (0, 0, 0)


def test_a_missing_offset_is_kept_as_nan():
    buffer = PairedBuffer(1, 2)
    buffer.add([[1.0]], [[np.nan, 2.0]])
    np.testing.assert_array_equal(buffer.train()[1], [[np.nan, 2.0]])


@pytest.mark.parametrize(
    ("inputs", "offsets", "groups", "message"),
    [
        pytest.param([[np.nan]], [[0.0]], None, "finite.*row 0.*VALID", id="nan-input"),
        pytest.param([[0.0], [np.inf]], [[0.0]] * 2, None, "finite.*row 1", id="infinite-input"),
        pytest.param([[1e300]], [[0.0]], None, "finite", id="too-large-for-float32"),
        pytest.param([[0.0]], [[np.inf]], None, "use NaN", id="infinite-offset"),
        pytest.param([0.0], [[0.0]], None, r"\(N, 1\)", id="flat-inputs"),
        pytest.param([[0.0]], [[0.0, 1.0]], None, r"\(1, 1\)", id="too-many-targets"),
        pytest.param([[0.0]], [[0.0]], [0, 1], r"`groups` must be \(1,\)", id="groups-too-long"),
        pytest.param([[0.0]], [[0.0]], [0.5], "integers", id="groups-not-whole"),
    ],
)
def test_bad_labels_are_refused_whole(inputs, offsets, groups, message):
    buffer = PairedBuffer(1, 1)
    with pytest.raises(ValueError, match=message):
        buffer.add(inputs, offsets, groups)
    assert len(buffer) == buffer.num_added == 0


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"holdout_fraction": 0.9}, {"input_dim": 0}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        PairedBuffer(**{"input_dim": 1, "output_dim": 1, **bad})


def test_a_million_labels_of_fifteen_floats_need_under_200_megabytes():
    buffer = PairedBuffer(11, 4)
    inputs, offsets = np.zeros((50_000, 11), np.float32), np.zeros((50_000, 4), np.float32)
    for _ in range(24):  # beyond capacity
        buffer.add(inputs, offsets)
    assert len(buffer) == 1_000_000
    rows = (buffer._train, buffer._holdout)
    allocated = sum(
        array.nbytes for part in rows for array in (part._inputs, part._offsets, part._numbers)
    )
    assert allocated < 200e6
