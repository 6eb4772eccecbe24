"""``rllib evaluate``: play episodes with a trained agent."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rllib_offset.console import waiting
from rllib_offset.experiments import parse_mapping
from rllib_offset.user_errors import UserError, user_errors

if TYPE_CHECKING:
    from rllib_offset.evaluation import Agent
    from rllib_offset.played_episodes import PlayedEpisode

__all__ = ["evaluate"]

_DEFAULT_EPISODES = 10


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Its folder, or that of its trial or experiment."
        ),
    ],
    env: Annotated[
        str | None,
        typer.Option(
            "--env", "-e", metavar="ENV", help="Another environment. Default: the slow simulator."
        ),
    ] = None,
    env_config: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="What it is made with; with --compare, changes to the slow one."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Episodes to play. Default: 10.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Steps after which no other episode starts."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write every step: .parquet or .jsonl.")
    ] = None,
    render: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write pictures: .mp4, .gif, or a folder of PNG."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also in fast + offset: promise, truth, speed-up.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="JSON", help="Settings: '{explore: true}'."),
    ] = None,
    algo: Annotated[str | None, typer.Option("--algo", "--run", hidden=True)] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the messages of RLlib.")
    ] = False,
) -> None:
    """Play episodes with a trained agent, in the slow simulator unless told otherwise.

    Example: rllib evaluate ~/ray_results/demo --episodes 3 --render demo.gif
    """
    with user_errors():
        _check_names(out, render)
        others = (env, steps, out, render, config)
        if compare and any(value is not None for value in others):
            raise UserError("--compare takes --episodes and --env-config only; run it by itself")
        settings = parse_mapping(config, option="--config")
        made_with = parse_mapping(env_config, option="--env-config")
        with waiting("reading the checkpoint"):
            agent = _load(checkpoint, algo, verbose)
        if episodes is None and steps is None:
            episodes = _DEFAULT_EPISODES
        if compare:
            with waiting("playing in both"):
                text = _comparison(agent, episodes or _DEFAULT_EPISODES, made_with)
            typer.echo(text)
            return
        typer.echo(f"{agent.algorithm} from {agent.path} in {env or agent.env}")
        played = agent.play(
            env=env,
            env_config=made_with,
            episodes=episodes,
            steps=steps,
            settings=settings,
            renders=render is not None,
            on_episode=_print_episode,
        )
        _print_mean(played)
        if out is not None:
            from rllib_offset.played_episodes import write_steps

            write_steps(played, out)
            typer.echo(f"steps written to {out}")
        if render is not None:
            from rllib_offset.played_episodes import write_frames

            write_frames(played, render)
            typer.echo(f"pictures written to {render}")


def _load(path: Path, algo: str | None, verbose: bool) -> "Agent":
    if not verbose:
        from rllib_offset.launch import keep_out_noise

        keep_out_noise()
    from rllib_offset.evaluation import find_checkpoint, load_agent

    agent = load_agent(find_checkpoint(path))
    if algo is not None and algo != agent.algorithm:
        raise UserError(
            f"--algo {algo}: the checkpoint was made by {agent.algorithm}; leave --algo out"
        )
    return agent


def _comparison(agent: "Agent", episodes: int, slow_env_config: dict[str, Any] | None) -> str:
    from rllib_offset.compare import compare

    try:
        return str(compare(agent.path, episodes=episodes, slow_env_config=slow_env_config))
    except ValueError as error:
        raise UserError(str(error)) from error
    except KeyError as error:
        raise UserError(
            f"{agent.path} lacks {error}: it is of an older version, train again"
        ) from error


def _check_names(out: Path | None, render: Path | None) -> None:
    if out is not None and out.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"--out must end in .parquet or .jsonl, got {out}")
    if render is None:
        return
    if render.suffix not in ("", ".gif", ".mp4"):
        raise UserError(f"--render must end in .mp4 or .gif, or name a folder, got {render}")
    if render.suffix == ".mp4" and find_spec("av") is None:
        raise UserError(f"--render {render} needs `pip install av`; a .gif file needs nothing")


def _print_episode(number: int, episode: "PlayedEpisode") -> None:
    typer.echo(f"Episode #{number}: return: {episode.total_reward:g}")


def _print_mean(played: "list[PlayedEpisode]") -> None:
    returns = [episode.total_reward for episode in played]
    steps = sum(len(episode.rewards) for episode in played)
    mean = sum(returns) / len(returns)
    typer.echo(f"mean return {mean:.4g} over {len(returns)} episodes, {steps} steps")
