import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from rllib_offset.envs.reward_maps import TARGET, Distance, RewardOffset
from rllib_offset.figures import (
    STYLES,
    Curve,
    curve_chart,
    offset_map,
    predicted_against_true,
    trajectory_map,
)
from rllib_offset.timing import TimingModel
from rllib_offset.timing_figures import TimeBar, batch_time_curve, training_times

PATHS = [np.array([[-0.5, -0.5], [0.0, 0.0], [0.4, 0.3]]), np.array([[0.9, 0.9], [0.4, 0.4]])]


def line_of(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def test_a_trajectory_map_shows_starts_paths_ends_and_target():
    ax = trajectory_map(Distance(), PATHS, TARGET, title="baseline")
    assert ax.get_title() == "baseline"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["path", "start", "end", "target"]
    assert np.array_equal(line_of(ax, "start").get_xydata(), [path[0] for path in PATHS])
    assert np.array_equal(line_of(ax, "end").get_xydata(), [path[-1] for path in PATHS])
    assert np.array_equal(line_of(ax, "target").get_xydata(), [TARGET])


def test_the_warmest_colour_is_at_the_highest_reward():
    ax = trajectory_map(RewardOffset(Distance()), PATHS, TARGET)
    contours = ax.collections[0]
    assert contours.norm.vmin < contours.norm.vmax
    red, green, blue, _ = contours.cmap(1.0)
    assert min(red, green) > blue


def test_it_draws_on_the_axes_it_is_given_and_returns_them():
    left, right = Figure().subplots(1, 2)
    assert trajectory_map(Distance(), PATHS, TARGET, ax=right) is right
    assert not left.lines


def test_a_map_without_paths_still_shows_the_target():
    ax = trajectory_map(Distance(), [], TARGET)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["target"]


def test_the_figure_can_be_saved(tmp_path):
    trajectory_map(Distance(), PATHS, TARGET).figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.skipif("matplotlib.pyplot" in sys.modules, reason="another test loaded pyplot")
def test_drawing_does_not_load_pyplot():
    trajectory_map(Distance(), PATHS, TARGET)
    assert "matplotlib.pyplot" not in sys.modules


def test_a_map_can_be_drawn_from_its_values():
    line = np.linspace(-1, 1, 21)
    values = Distance()(np.stack(np.meshgrid(line, line), axis=-1))
    padded = np.concatenate([PATHS[0], [[np.nan, np.nan]]])
    ax = trajectory_map(values, [padded], TARGET)
    assert np.array_equal(line_of(ax, "end").get_xydata(), [PATHS[0][-1]])


def test_an_offset_of_zero_is_white_and_labels_are_dots():
    ax = offset_map(np.array([[-1.0, 0.0], [0.0, 2.0]]), label_positions=np.zeros((3, 2)))
    image = ax.images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-2.0, 2.0)
    assert min(image.cmap(image.norm(0.0))[:3]) > 0.95
    assert len(ax.collections[0].get_offsets()) == 3


def test_a_curve_is_the_mean_over_seeds_inside_its_band():
    curve = Curve("arm", np.array([1.0, 2.0]), np.array([[0.0, 1.0], [2.0, 3.0]]), STYLES[0])
    mean, low, high = curve.band()
    assert mean.tolist() == [1.0, 2.0]
    assert (low < mean).all()
    assert (mean < high).all()
    ax = curve_chart([curve], xlabel="steps", ylabel="return")
    assert line_of(ax, "arm").get_ydata().tolist() == [1.0, 2.0]
    assert len(ax.collections) == 1


def test_an_arm_that_bought_nothing_is_a_level_line():
    bought = Curve("bought", np.array([0.0, 10.0, 100.0]), np.array([[1.0, 2.0, 3.0]]))
    free = Curve("free", np.zeros(2), np.array([[4.0, 5.0]]))
    ax = curve_chart([bought, free], xlabel="slow steps", ylabel="return", log_x=True)
    assert line_of(ax, "bought").get_xdata().tolist() == [10.0, 100.0]
    assert set(line_of(ax, "free").get_ydata()) == {5.0}


def test_a_perfect_predictor_puts_every_dot_on_the_line():
    true = np.array([0.0, 1.0, np.nan, 2.0])
    ax = predicted_against_true(true, true, np.array([False, True, True, False]))
    assert line_of(ax, "fitted labels").get_xydata().tolist() == [[0, 0], [2, 2]]
    assert line_of(ax, "held-out labels").get_xydata().tolist() == [[1, 1]]
    assert ax.get_xlim() == ax.get_ylim()


def test_long_names_in_a_legend_leave_room_for_the_axes():
    curves = [Curve("x" * 100, np.arange(2.0), np.ones((1, 2))) for _ in range(12)]
    ax = curve_chart(curves, xlabel="steps", ylabel="return")
    ax.figure.draw_without_rendering()  # a collapsed layout would warn
    assert ax.get_position().height > 0.2


def test_bars_show_the_mean_the_seeds_and_the_prediction():
    bars = [
        TimeBar("serial", [2.0, 4.0], 3.1),
        TimeBar("parallel", [1.0]),
    ]
    ax = training_times(bars, ylabel="time (s)")
    assert [bar.get_height() for bar in ax.patches] == [3.0, 1.0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["serial", "parallel"]
    assert [text.get_text() for text in ax.texts] == ["3 s", "1 s\n3.0 times faster"]
    (predicted,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert predicted.get_ydata().tolist() == [3.1, 3.1]


def test_the_plan_falls_with_every_round_that_is_saved():
    model = TimingModel(slow_step_s=0.01, fast_step_s=1e-5, trajectory_steps=100)
    ax = batch_time_curve(
        lambda workers: model, steps=1000, most_workers=10, measured=[("sample", 2, 5.0)]
    )
    times = line_of(ax, "trajectory level").get_ydata()
    assert times[[0, 4, 9]] == pytest.approx([10.0, 2.0, 1.0], rel=0.02)
    assert line_of(ax, "sample level, measured").get_xydata().tolist() == [[2.0, 5.0]]


def test_two_seeds_with_a_wide_interval_do_not_flatten_the_curves():
    curve = Curve("two seeds", np.arange(3.0), np.array([[0.0, 1.0, 2.0], [4.0, 1.0, 2.0]]))
    ax = curve_chart([curve], xlabel="steps", ylabel="return")
    _, low, high = curve.band()
    assert low.min() < -20 < 20 < high.max()
    assert ax.get_ylim() == pytest.approx((-0.2, 4.2))
