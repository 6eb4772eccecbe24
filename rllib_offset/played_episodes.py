"""Episodes that were played, and the files they are written to: tables of steps, and pictures."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_offset.user_errors import UserError

__all__ = ["PlayedEpisode", "write_frames", "write_steps"]


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode as the environment saw it; ``T`` steps.

    Args:
        obs: What the agent saw, ``(T + 1, D)``.
        actions: What the environment received, ``(T,)`` or ``(T, A)``.
        rewards: ``(T,)``.
        terminated: Whether it ended by itself.
        truncated: Whether it was cut off.
        seed: What it was reset with; ``None`` where RLlib does not say.
        frames: Pictures, one per observation, each ``(height, width, 3)``.
    """

    obs: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: bool
    truncated: bool
    seed: int | None = None
    frames: Sequence[NDArray[np.uint8]] = field(default=(), repr=False)

    @property
    def total_reward(self) -> float:
        """The return."""
        return float(np.sum(self.rewards))

    def rows(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield the steps as plain values, one row each."""
        last = len(self.rewards) - 1
        for i, (action, reward) in enumerate(zip(self.actions, self.rewards, strict=True)):
            yield {
                "episode": number,
                "step": i,
                "seed": self.seed,
                "obs": np.asarray(self.obs[i]).tolist(),
                "action": np.asarray(action).tolist(),
                "reward": float(reward),
                "next_obs": np.asarray(self.obs[i + 1]).tolist(),
                "terminated": self.terminated and i == last,
                "truncated": self.truncated and i == last,
            }


def write_frames(episodes: Sequence[PlayedEpisode], path: Path, *, fps: int = 30) -> None:
    """Write the pictures: one ``.mp4`` or ``.gif`` file of all episodes, or a folder of PNG files.

    Raises:
        UserError: If there are none.
    """
    if not any(episode.frames for episode in episodes):
        raise UserError("there are no pictures to write; the environment rendered nothing")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [frame for episode in episodes for frame in episode.frames]
    if path.suffix == ".mp4":
        _write_mp4(frames, path, fps)
    elif path.suffix == ".gif":
        _write_gif(frames, path, fps)
    else:
        _write_folder(episodes, path)


def _write_mp4(frames: Sequence[NDArray[np.uint8]], path: Path, fps: int) -> None:
    import av

    height, width = (length - length % 2 for length in frames[0].shape[:2])  # H.264 wants even
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            pixels = np.ascontiguousarray(frame[:height, :width])
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())  # what the encoder still holds


def _write_gif(frames: Sequence[NDArray[np.uint8]], path: Path, fps: int) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def _write_folder(episodes: Sequence[PlayedEpisode], path: Path) -> None:
    from PIL import Image

    path.mkdir(exist_ok=True)
    for number, episode in enumerate(episodes, start=1):
        for i, frame in enumerate(episode.frames):
            Image.fromarray(frame).save(path / f"episode_{number:03}_step_{i:05}.png")


def write_steps(episodes: Sequence[PlayedEpisode], path: Path) -> None:
    """Write every step as a row, into a ``.parquet`` or ``.jsonl`` file.

    Raises:
        UserError: If the name ends otherwise.
    """
    rows = [row for number, episode in enumerate(episodes, 1) for row in episode.rows(number)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        raise UserError(f"--out must end in .parquet or .jsonl, got {path}")
