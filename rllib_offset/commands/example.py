"""``rllib example``: the tuned configurations that come with the package."""

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

import rllib_offset
from rllib_offset.commands import options as given
from rllib_offset.commands.train import launch
from rllib_offset.config_keys import check_name
from rllib_offset.experiments import Overrides, load_experiments
from rllib_offset.launch import Cluster, Search
from rllib_offset.user_errors import UserError, user_errors

__all__ = ["find_examples", "get_example", "list_examples", "run_example"]


def find_examples() -> Mapping[str, Path]:
    """Return the examples by id: those of the installed package, else those of the checkout."""
    package = Path(rllib_offset.__file__).parent
    for folder in (package / "tuned_configs", package.parent / "tuned_configs"):
        if paths := sorted(folder.glob("*.yaml")):
            return {path.stem: path for path in paths}
    raise UserError("this installation holds no examples; install rllib-offset again")


def _complete(incomplete: str) -> list[str]:
    return [name for name in find_examples() if name.startswith(incomplete)]


ExampleId = Annotated[
    str, typer.Argument(metavar="ID", help="As `list` shows it.", autocompletion=_complete)
]


def list_examples(
    text: Annotated[
        str, typer.Option("--filter", "-f", metavar="TEXT", help="Only those that mention TEXT.")
    ] = "",
) -> None:
    """List the examples.

    Example: rllib example list -f ppo
    """
    with user_errors():
        examples = {name: _description(path) for name, path in find_examples().items()}
        chosen = {
            name: description
            for name, description in examples.items()
            if text.lower() in f"{name} {description}".lower()
        }
        if not chosen:
            raise UserError(f"no example mentions {text!r}; `rllib example list` shows all")
    width = max(len(name) for name in chosen) + 2
    for name, description in chosen.items():
        line = f"{name:<{width}}{description}"
        typer.echo(_wrapped(line, indent=width) if sys.stdout.isatty() else line)


def get_example(example_id: ExampleId) -> None:
    """Print the file of an example, to change it.

    Example: rllib example get demo > mine.yaml
    """
    with user_errors():
        text = _path_of(example_id).read_text(encoding="utf-8")
    typer.echo(text, nl=False)


def run_example(
    example_id: ExampleId,
    stop: given.Stop = None,
    settings: given.Settings = None,
    experiment_name: given.ExperimentName = None,
    storage_path: given.StoragePath = None,
    num_samples: given.NumSamples = None,
    checkpoint_freq: given.CheckpointFreq = None,
    resume: given.Resume = False,
    ray_address: given.RayAddress = None,
    ray_num_cpus: given.RayNumCpus = None,
    verbose: given.Verbose = 0,
) -> None:
    """Train an example.

    Example: rllib example run demo --stop '{training_iteration: 20}'
    """
    overrides = Overrides(
        stop=stop,
        settings=tuple(settings or ()),
        num_samples=num_samples,
        experiment_name=experiment_name,
        storage_path=storage_path,
        checkpoint_freq=checkpoint_freq,
    )
    cluster = Cluster(address=ray_address, num_cpus=ray_num_cpus, verbosity=verbose)
    with user_errors():
        experiments, _ = load_experiments(_path_of(example_id))
        launch(experiments, overrides, cluster, Search(resume=resume))


def _path_of(example_id: str) -> Path:
    examples = find_examples()
    try:
        check_name(examples, example_id, what="example")
    except ValueError as error:
        raise UserError(str(error)) from None
    return examples[example_id]


def _wrapped(line: str, indent: int) -> str:
    """Break a line as the terminal would, but below its second column."""
    columns = max(shutil.get_terminal_size().columns, 2 * indent)
    return textwrap.fill(line, columns, subsequent_indent=" " * indent, break_on_hyphens=False)


def _description(path: Path) -> str:
    """First sentence of the comment at the head of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(
        line.removeprefix("#").strip() for line in takewhile(lambda line: line != "#", lines)
    )
    return re.split(r"(?<=\.) ", comment, maxsplit=1)[0]
