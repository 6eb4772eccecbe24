"""Pictures of an agent while it trains: for TensorBoard, and beside every checkpoint.

Two functions for the algorithms to call: :func:`add_figures` with each result and
:func:`save_agent_view` with each checkpoint.
"""

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from rllib_offset import figures
from rllib_offset.results import AGENT_VIEW_NAME, FIGURE_NAME
from rllib_offset.rollouts import AgentView, view_of_algorithm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Picture", "add_figures", "agent_figures", "save_agent_view"]

FIGURES = "figures"  # key in a result
_DPI = 90


class Picture(np.ndarray[Any, np.dtype[np.uint8]]):
    """An image ``(3, H, W)`` in a result, which TensorBoard shows in its IMAGES tab.

    Tune writes a plain array number by number into ``result.json``; this one by its size.
    """

    def __str__(self) -> str:
        return f"picture {self.shape}"

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Travel compressed: Tune keeps the last result, as text, in its experiment state."""
        return _unpacked, (zlib.compress(self.tobytes()), self.shape)


def add_figures(algorithm: Any, result: dict[str, Any], interval: int | None) -> None:
    """Add pictures of the agent and its predictor to a result.

    Args:
        algorithm: The algorithm that trains.
        result: Its result, as ``on_train_result`` gets it.
        interval: Draw every so many iterations; None draws nothing.
    """
    if not interval or result.get("training_iteration", 0) % interval:
        return
    drawn = agent_figures(view_of_algorithm(algorithm))
    if drawn:
        result[FIGURES] = {name: _picture(figure) for name, figure in drawn.items()}


def save_agent_view(algorithm: Any, checkpoint_dir: str | Path) -> None:
    """Put the agent's paths and predictions beside a checkpoint, and a picture into the trial.

    Writes ``trajectories.npz`` into ``checkpoint_dir``; where there are paths, also
    ``trajectories.png`` there and, under Tune, into the trial's results folder.
    """
    view = view_of_algorithm(algorithm)
    if view.is_empty:
        return
    view.save(Path(checkpoint_dir) / AGENT_VIEW_NAME)
    drawn = agent_figures(view)
    if "trajectories" not in drawn:
        return
    png = _png(drawn["trajectories"])
    (Path(checkpoint_dir) / FIGURE_NAME).write_bytes(png)
    storage = getattr(algorithm, "_storage", None)
    if storage is not None and storage.trial_dir_name is not None:
        folder, filesystem = storage.trial_fs_path, storage.storage_filesystem
        filesystem.create_dir(folder, recursive=True)  # a short run may be ahead of Tune's own
        with filesystem.open_output_stream(f"{folder}/{FIGURE_NAME}") as file:
            file.write(png)


def agent_figures(view: AgentView) -> "dict[str, Figure]":
    """Draw what there is to see of an agent, by name.

    Returns:
        ``trajectories`` and ``predictor_map`` of a two-dimensional pair, and
        ``predicted_against_true`` wherever there are labels.
    """
    drawn: dict[str, Any] = {}
    if len(view.paths):
        has_slow = view.slow_map.size > 0
        drawn["trajectories"] = figures.trajectory_map(
            view.slow_map if has_slow else view.trained_map,
            list(view.paths),
            view.target,
            title="paths over the slow reward map" if has_slow else "paths",
        ).figure
    if view.has_offset_map:
        drawn["predictor_map"] = _predictor_map(view)
    if len(view.label_offsets):
        drawn["predicted_against_true"] = figures.predicted_against_true(
            view.label_offsets[:, -1],
            view.label_predictions[:, -1],
            view.label_is_held_out,
            name=str(view.target_names[-1]),
        ).figure
    return drawn


def _predictor_map(view: AgentView) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 4.2), layout="constrained")
    predicted, true = view.predicted[..., -1], view.true[..., -1]
    name = str(view.target_names[-1])
    limit = float(np.abs(true).max())
    axes: list[Axes] = list(figure.subplots(1, 3))
    for ax, values, most, title in (
        (axes[0], predicted, limit, f"predicted offset of {name}"),
        (axes[1], true, limit, "true offset"),
        (axes[2], predicted - true, None, "predicted - true"),
    ):
        dots = view.label_positions if ax is axes[0] else None
        figures.offset_map(values, limit=most, label_positions=dots, ax=ax, title=title)
    return figure


def _unpacked(compressed: bytes, shape: tuple[int, ...]) -> Picture:
    pixels = np.frombuffer(zlib.decompress(compressed), np.uint8)
    return pixels.reshape(shape).view(Picture)


def _picture(figure: "Figure") -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3].transpose(2, 0, 1)).view(Picture)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
