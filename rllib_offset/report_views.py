"""Figures 3 to 6 of the paper, for one trained agent: its paths and its predictor."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from rllib_offset import figures
from rllib_offset.page_figure import PageFigure, slug
from rllib_offset.results import Arm

if TYPE_CHECKING:
    from rllib_offset.rollouts import AgentView

__all__ = ["view_figures"]


def view_figures(
    number: int, arm: Arm, view: "AgentView", *, shows_truth: bool = True
) -> Iterator[PageFigure]:
    """Figures 3 to 6: what one trained agent does, and what its predictor says.

    Args:
        number: Of the figure of paths, 0 for an agent that is not the paper's.
        arm: Of the agent.
        view: The agent.
        shows_truth: Whether the true offset is drawn too.
    """
    if len(view.paths):
        yield _trajectories(number, arm, view)
    if view.has_offset_map:
        maps = _offset_maps(number, arm, view)
        yield from (figure for figure in maps if shows_truth or "true-" not in figure.name)
    elif len(view.label_offsets):
        yield from _scatters(arm, view)


def _trajectories(number: int, arm: Arm, view: "AgentView") -> PageFigure:
    which = "slow" if arm.trains_on_slow or np.allclose(view.trained_map, view.slow_map) else "fast"
    if arm.has_pair:
        see = (
            "The agent trained on fast + offset: the map under it has its peak elsewhere, and yet "
            "the paths end at the star, the best place in the slow simulator."
        )
    elif which == "slow":
        see = "The agent trained on the slow simulator: its paths lead straight to the star."
    else:
        see = (
            "The agent trained on the fast simulator alone: it goes to the peak of the fast map, "
            "away from the star, the best place in the slow simulator."
        )
    rows = [
        {"episode": int(seed), "step": step, "x": x, "y": y}
        for seed, path in zip(view.path_seeds, view.paths, strict=True)
        for step, (x, y) in enumerate(path)
        if np.isfinite(x)
    ]
    return PageFigure(
        f"{f'fig{number}-' if number else ''}paths-{slug(arm.name)}",
        f"{f'Figure {number}' if number else 'Paths'}: {arm.name}",
        f"{see} Drawn over the {which} reward map, bright is a high reward; the random starts are "
        "the same in every such figure.",
        figures.trajectory_map(view.trained_map, list(view.paths), view.target),
        rows,
        is_small=True,
    )


def _offset_maps(number: int, arm: Arm, view: "AgentView") -> Iterator[PageFigure]:
    predicted, true = view.predicted[..., -1], view.true[..., -1]
    name = str(view.target_names[-1])
    limit = float(np.abs(true).max())
    error = float(np.abs(predicted - true).mean())
    line = np.linspace(-1.0, 1.0, len(predicted))
    rows = [
        {"x": x, "y": y, "predicted": predicted[j, i], "true": true[j, i]}
        for j, y in enumerate(line)
        for i, x in enumerate(line)
    ]
    for part, title, values, most, dots, caption in (
        (
            "predicted",
            "predicted offset",
            predicted,
            limit,
            view.label_positions,
            f"Predicted offset of the {name} over the square. Dots are labels (a selection): "
            "where there are none, the predictor guesses.",
        ),
        (
            "true",
            "true offset",
            true,
            limit,
            None,
            "The true offset on the same scale. The two should look alike.",
        ),
        (
            "difference",
            "predicted minus true",
            predicted - true,
            None,
            None,
            f"Predicted minus true, on its own, finer scale; {error:.4f} in the mean. What is "
            "left sits at the kinks of the maps and where no labels lie.",
        ),
    ):
        yield PageFigure(
            f"{'fig6-' if number else ''}{part}-{slug(arm.name)}",
            f"Figure 6: {title}" if number else f"{title}, {arm.name}",
            caption,
            figures.offset_map(values, limit=most, label_positions=dots),
            rows,
            is_small=True,
        )


def _scatters(arm: Arm, view: "AgentView") -> Iterator[PageFigure]:
    for index, name in enumerate(view.target_names):
        true, predicted = view.label_offsets[:, index], view.label_predictions[:, index]
        rows = [
            {"measured": t, "predicted": p, "held_out": bool(h)}
            for t, p, h in zip(true, predicted, view.label_is_held_out, strict=True)
        ]
        yield PageFigure(
            f"offset-{slug(str(name))}-{slug(arm.name)}",
            f"Predicted against measured: {name}, {arm.name}",
            "Every dot is a label: on the line, the prediction is right. Held-out labels were "
            "never fitted; they should lie as close to the line as the others.",
            figures.predicted_against_true(true, predicted, view.label_is_held_out, name=str(name)),
            rows,
            is_small=True,
        )
