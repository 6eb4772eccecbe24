import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rllib_offset.envs.opamp.design import HIGH, LOW, START, as_design
from rllib_offset.envs.opamp.engine import AcResult
from rllib_offset.envs.opamp.hand import hand_response, hand_specs
from rllib_offset.envs.opamp.layout import extracted
from rllib_offset.envs.opamp.measurement import FAILED_SPECS, from_learned, measure, to_learned
from rllib_offset.envs.opamp.netlists import schematic
from rllib_offset.envs.opamp.simulators import open_simulator
from tests.opamp import KNOWN_DESIGNS, REDUCED, needs_library

designs = st.tuples(
    *(st.integers(int(low), int(high)) for low, high in zip(LOW, HIGH, strict=True))
)
specs = st.tuples(
    st.floats(1e-3, 1e6), st.floats(1.0, 1e12), st.floats(-180.0, 180.0), st.floats(1e-9, 1.0)
)
few = settings(max_examples=30, deadline=None)  # a deck has thousands of cards
FREQUENCY = np.logspace(3, 11, 81)


def one_pole(gain, bandwidth, frequency=FREQUENCY):
    return gain / (1 + 1j * frequency * np.sqrt(gain**2 - 1) / bandwidth)


# Designs


@pytest.mark.parametrize(
    "design",
    [
        pytest.param([34] * 6, id="six-numbers"),
        pytest.param([*START[:6], 0], id="below"),
        pytest.param([*START[:6], 101], id="above"),
        pytest.param([*START[:6], 20.5], id="half-a-unit"),
        pytest.param([*START[:6], np.nan], id="nan"),
        pytest.param([*START[:6], np.inf], id="infinite"),
    ],
)
def test_no_deck_is_written_for_a_design_that_cannot_be_built(design):
    for write in (schematic, extracted):
        with pytest.raises(ValueError, match="a design is"):
            write(design)


@pytest.mark.parametrize("dial", [{"group": 0}, {"segments": 0}, {"group": 2.5}])
def test_a_dial_below_one_is_refused(dial):
    with pytest.raises(ValueError, match="must be whole numbers >= 1"):
        extracted(START, **dial)


# Netlists


@few
@given(design=designs)
def test_every_finger_of_a_design_is_an_instance(design):
    fingers = design[0] * 2 + design[1] * 2 + sum(design[2:6])
    instances = [card for card in extracted(design) if card.startswith("M")]
    assert len(instances) == fingers
    assert sum(card.startswith("M") for card in schematic(design)) == 8


@few
@given(design=designs, group=st.integers(1, 40))
def test_grouping_keeps_the_number_of_fingers(design, group):
    cards = [card.split() for card in extracted(design, group=group) if card.startswith("M")]
    total = sum(float(word[2:]) for card in cards for word in card if word.startswith("m="))
    assert total == pytest.approx(design[0] * 2 + design[1] * 2 + sum(design[2:6]), rel=1e-4)


@few
@given(design=designs, group=st.integers(1, 40), segments=st.integers(1, 15))
def test_names_are_distinct_even_where_case_does_not_count(design, group, segments):
    cards = extracted(design, group=group, segments=segments)
    names = [card.split()[0] for card in cards if card[0] in "RCMLEVI"]
    nodes = {node for card in cards if card[0] in "RC" for node in card.split()[1:3]}
    assert len({name.lower() for name in names}) == len(names)
    assert len({node.lower() for node in nodes}) == len(nodes)


@few
@given(design=designs)
def test_no_part_has_a_value_that_is_not_positive(design):
    cards = [card.split() for card in extracted(design, **REDUCED)]
    values = [float(card[3]) for card in cards if card[0][0] in "RC" and len(card) == 4]
    assert min(values) > 0.0


@needs_library
@pytest.mark.parametrize(("design", "known"), KNOWN_DESIGNS)
def test_the_schematic_has_the_specs_of_the_study(design, known):
    evaluation = open_simulator("schematic").evaluate(design)
    assert evaluation.specs == pytest.approx(np.array(known), rel=1e-6)


@needs_library
@pytest.mark.parametrize(("design", "known"), KNOWN_DESIGNS)
def test_parasitics_cost_bandwidth_and_phase_margin(design, known):
    gain, bandwidth, phase_margin, current = (
        open_simulator("extracted", group=5).evaluate(design).specs
    )
    assert gain == pytest.approx(known[0], rel=0.05)
    assert 0.8 * known[1] < bandwidth < known[1]
    assert known[2] - 8.0 < phase_margin < known[2]
    assert current == pytest.approx(known[3], rel=0.05)


@needs_library
@pytest.mark.parametrize("design", [LOW, HIGH, START])
def test_the_corners_of_the_design_space_can_be_simulated(design):
    evaluation = open_simulator("extracted", **REDUCED).evaluate(design)
    assert np.isfinite(evaluation.specs).all()


# Hand equations


@few
@given(design=arrays(np.int64, (5, 7), elements=st.integers(2, 100)))
def test_the_hand_equations_have_unit_gain_at_their_bandwidth(design):
    found = hand_specs(design)
    for sizes, row in zip(design, found, strict=True):
        assert abs(hand_response(sizes, row[1:2])) == pytest.approx(1.0, rel=1e-9)
        assert abs(hand_response(sizes, np.array([1e-3]))) == pytest.approx(row[0], rel=1e-9)


@few
@given(design=arrays(np.int64, (5, 7), elements=st.integers(2, 100)))
def test_the_hand_equations_agree_with_a_sweep_of_themselves(design):
    frequency = np.logspace(0, 12, 4801)
    for sizes, row in zip(design, hand_specs(design), strict=True):
        response = hand_response(sizes, frequency)
        swept = measure(AcResult(frequency, response, row[3])).specs
        assert swept[:2] == pytest.approx(row[:2], rel=2e-3)
        assert swept[2] == pytest.approx(row[2], abs=0.1)


def test_a_batch_of_designs_equals_designs_one_by_one():
    batch = np.random.default_rng(0).integers(LOW, HIGH + 1, (64, 7))
    alone = np.array([hand_specs(design[None])[0] for design in batch])
    assert np.array_equal(hand_specs(batch), alone)
    assert np.array_equal(hand_specs(batch.reshape(8, 8, 7)).reshape(64, 4), alone)


# Measurement


@pytest.mark.parametrize("sign", [1, -1])
def test_a_single_pole_is_measured_as_it_was_made(sign):
    response = sign * one_pole(300.0, 5e7)
    found = measure(AcResult(FREQUENCY, response, 1e-4))
    assert found.is_valid
    assert found.specs == pytest.approx([300.0, 5e7, 90.0, 1e-4], rel=5e-3)


@pytest.mark.parametrize(
    ("response", "supply"),
    [
        pytest.param(one_pole(300.0, 1e13), 1e-4, id="never-below-one"),
        pytest.param(one_pole(300.0, 5e7) / 1e3, 1e-4, id="never-above-one"),
        pytest.param(np.zeros(81, complex), 1e-4, id="silent"),
        pytest.param(one_pole(300.0, 5e7), 0.0, id="no-current"),
    ],
)
def test_a_response_without_specs_is_invalid_and_far_from_every_target(response, supply):
    found = measure(AcResult(FREQUENCY, response, supply))
    assert not found.is_valid
    assert np.array_equal(found.specs, FAILED_SPECS)


def test_a_response_that_stops_is_measured():
    response = np.where(FREQUENCY < 1e6, 100.0 + 0j, 0.0)
    assert np.isfinite(measure(AcResult(FREQUENCY, response, 1e-4)).specs).all()


def test_a_failed_run_tells_its_reason():
    found = measure(AcResult(status="deadline", message="no result within 1 s"))
    assert (found.is_valid, found.failure) == (False, "deadline: no result within 1 s")


@given(values=specs)
def test_the_learned_scale_leads_back_to_the_specs(values):
    assert from_learned(to_learned(values)) == pytest.approx(np.array(values), rel=1e-9)


@given(values=arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6)))
def test_whatever_is_predicted_gives_finite_specs(values):
    assert np.isfinite(from_learned(values)).all()


# Simulators


@needs_library
def test_a_design_is_simulated_once():
    simulator = open_simulator("schematic", deadline_s=7.0)
    first, again = (simulator.evaluate(START) for _ in range(2))
    assert first is again
    assert simulator.engine.counts["runs"] == 1


@needs_library
def test_equal_simulators_share_one_process_and_the_last_one_ends_it():
    one, other = (open_simulator("schematic", deadline_s=8.0) for _ in range(2))
    third = open_simulator("extracted", deadline_s=8.0)
    assert one is other
    assert third.engine is not one.engine
    process = one.engine._child.process
    del one
    assert process.poll() is None
    del other
    assert process.poll() is not None


@needs_library
def test_what_missed_its_deadline_is_tried_again():
    simulator = open_simulator("extracted", deadline_s=0.02, group=1)
    assert not simulator.evaluate(HIGH).is_valid
    simulator.engine.deadline_s = 30.0
    assert simulator.evaluate(HIGH).is_valid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fidelity": "measured"}, "`fidelity` is hand, schematic or extracted"),
        ({"fidelity": "hand", "engine": "cloud"}, "`engine` is one of library, subprocess"),
        ({"fidelity": "hand", "group": 0}, "must be whole numbers >= 1"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_simulator(**arguments)


def test_a_design_from_a_file_may_hold_floats():
    assert as_design([34.0, *START[1:]]).tolist() == START.tolist()
