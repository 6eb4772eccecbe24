"""``rllib propose``: a design from a trained agent, verified in the slow simulator."""

from pathlib import Path
from typing import Annotated

import typer

from rllib_offset.experiments import parse_mapping
from rllib_offset.user_errors import UserError, user_errors

__all__ = ["propose"]


def propose(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Its folder, or that of its trial or experiment."
        ),
    ],
    env_config: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="The task: '{target: {...}}' of the fast environment."),
    ] = None,
    verify: Annotated[
        int, typer.Option(metavar="0|1", min=0, max=1, help="Slow steps per attempt.")
    ] = 1,
    retries: Annotated[
        int, typer.Option(metavar="N", min=0, help="Corrections by an observed residual.")
    ] = 2,
    episodes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tasks; with several, a summary is printed.")
    ] = 1,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the first task, where it is drawn.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the messages of RLlib.")
    ] = False,
) -> None:
    """Propose a design in fast + offset, and verify it by one slow step.

    Example: rllib propose ~/ray_results/opamp-offset-ppo --retries 2
    """
    with user_errors():
        task = parse_mapping(env_config, option="--env-config")
        if not verbose:
            from rllib_offset.launch import keep_out_noise

            keep_out_noise()
        from rllib_offset import proposals
        from rllib_offset.evaluation import find_checkpoint
        from rllib_offset.seeded_env_runner import EVALUATION_SEED

        first = EVALUATION_SEED if seed is None else seed
        try:
            made = proposals.propose(
                find_checkpoint(checkpoint),
                env_config=task,
                seeds=range(first, first + episodes),
                verify=bool(verify),
                retries=retries,
            )
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error
        typer.echo(str(made[0]) if episodes == 1 else str(proposals.summarise(made)))
