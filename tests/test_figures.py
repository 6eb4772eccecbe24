import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from rllib_offset.envs.reward_maps import TARGET, Distance, RewardOffset
from rllib_offset.figures import trajectory_map

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
