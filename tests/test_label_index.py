from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from rllib_offset.label_index import LabelIndex, Place


def test_what_was_forgotten_is_not_found_and_comes_back_under_its_name():
    index = LabelIndex()
    index.add("one", ["a", "a", "b", "a"])
    index.add("two", ["a"])
    assert index.places("a") == [Place("one", 0, 2), Place("one", 3, 4), Place("two", 0, 1)]
    index.forget("one")
    assert index.places("a") == [Place("two", 0, 1)]
    assert index.places("b") == []
    index.prune()
    index.forget("two")
    index.add("one", ["b"])  # not taken for what is left of another
    assert (index.places("a"), index.places("b")) == ([], [Place("one", 0, 1)])


def test_segments_are_listed_by_name_and_size():
    index = LabelIndex()
    index.add("z", ["a"] * 3)
    index.add("y", [])
    assert index.segments() == ["y", "z"]
    assert index.segments(below=3) == ["y"]
    index.clear()
    assert index.segments() == []


names = st.sampled_from("uvw")
actions = st.one_of(
    st.tuples(st.just("add"), names, st.lists(st.sampled_from("abc"))),
    st.tuples(st.just("forget"), names, st.none()),
    st.tuples(st.just("prune"), st.none(), st.none()),
)


@given(st.lists(actions))
def test_it_finds_what_a_plain_search_finds(script):
    index, segments = LabelIndex(), {}
    for action, name, identities in script:
        if action == "add" and name not in segments:
            segments[name] = identities
            index.add(name, identities)
        elif action == "forget":
            segments.pop(name, None)
            index.forget(name)
        elif action == "prune":
            index.prune()
    expected = {"a": [], "b": [], "c": []}
    for name, identities in segments.items():
        start = 0
        for identity, rows in groupby(identities):
            stop = start + len(list(rows))
            expected[identity].append(Place(name, start, stop))
            start = stop
    assert {identity: index.places(identity) for identity in expected} == expected
