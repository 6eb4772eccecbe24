"""Notes are read as they were written, up to where a process was cut short."""

import io
import json

import numpy as np
import pytest

from rllib_offset.replay.notes import packed, unpacked

FIRST = {
    "obs": np.array([[1.5, -0.0], [np.nan, np.inf]], np.float32),
    "state": np.zeros((2, 0)),
    "is_end": np.array([False, True]),
    "run": np.array(["a", "übung"]),
    "nested": np.arange(8).reshape(2, 2, 2)[:, ::-1],
}
SECOND = {"number": np.array([2**60], np.int64)}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], column)


def test_notes_are_read_as_they_were_written():
    first, second = unpacked(io.BytesIO(packed(FIRST) + packed(SECOND)))
    assert_equal(first, FIRST)
    assert_equal(second, SECOND)


def test_a_note_that_was_cut_short_is_left_out():
    data = packed(FIRST) + packed(SECOND)
    for length in range(len(packed(FIRST)), len(data)):
        (first,) = unpacked(io.BytesIO(data[:length]))
        assert_equal(first, FIRST)
    assert list(unpacked(io.BytesIO(data[: len(packed(FIRST)) - 1]))) == []


@pytest.mark.parametrize(
    "data", [bytes(8), b"\x03\x00\x00\x00\x00\x00\x00\x00abc"], ids=["zeros", "no-json"]
)
def test_what_a_power_cut_left_ends_the_file(data):
    notes = unpacked(io.BytesIO(packed(FIRST) + data))
    assert_equal(next(notes), FIRST)
    with pytest.raises(json.JSONDecodeError):
        list(notes)


def test_objects_are_refused():
    with pytest.raises(ValueError, match="column 'x' must hold numbers or text, got object"):
        packed({"x": np.array([{}])})
