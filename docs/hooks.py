"""Tables of the reference, made from the code when the pages are built.

A line ``{{ name }}`` of a page is replaced by what the function of that name returns.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "rllib_offset"
_SENTINEL = "what this argument becomes"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda m: TABLES[m.group(1)](), markdown, flags=re.M)


def settings() -> str:
    """Every argument of our config sections: its key in YAML, its default, what it does."""
    from rllib_offset import OffsetA2CConfig

    parts = []
    for section in ("slow_simulator", "offset", "labels"):
        rows = [
            f"| `{argument}` | `{key}` | `{default!r}` | {text} |"
            for argument, key, default, text in _arguments(OffsetA2CConfig, section)
        ]
        header = "| argument | key in YAML | default | meaning |\n|---|---|---|---|\n"
        parts.append(f"## `.{section}(...)`\n\n{header}" + "\n".join(rows))
    return "\n\n".join(parts)


def defaults() -> str:
    """What A2C and the offset algorithms set otherwise than RLlib's base configuration."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_offset import A2CConfig, OffsetA2CConfig

    base, ours, offset = (vars(cls()) for cls in (AlgorithmConfig, A2CConfig, OffsetA2CConfig))
    sections = {name for name in offset if name not in ours}  # in the tables above
    rows = ["| key | RLlib | `A2C` | `OffsetA2C` |", "|---|---|---|---|"]
    for name in sorted(offset.keys() - sections - {"algo_class", "policies"}):
        values = [_shown(values.get(name, "-")) for values in (base, ours, offset)]
        if len(set(values)) > 1:
            rows.append(f"| `{name.strip('_')}` | " + " | ".join(values) + " |")
    return "\n".join(rows)


def _shown(value: Any) -> str:
    text = value.__name__ if isinstance(value, type) else repr(value)
    return value if value == "-" else f"`{text}`"


def _arguments(config: Any, section: str) -> Iterator[tuple[str, str, Any, str]]:
    method = getattr(config, section)
    meanings = _meanings(inspect.getdoc(method) or "")
    defaults = vars(config())
    for argument in list(inspect.signature(method).parameters)[1:]:
        changed = vars(getattr(config(), section)(**{argument: (_SENTINEL,)}))
        (key,) = (name for name, value in changed.items() if value == (_SENTINEL,))
        yield argument, key, defaults[key], meanings[argument]


def _meanings(docstring: str) -> dict[str, str]:
    section = re.split(r"\n\w+:\n", docstring.partition("Args:\n")[2])[0]
    entries = re.split(r"\n(?=    \w+: )", f"\n{section.rstrip()}")[1:]
    pairs = (entry.strip().partition(": ") for entry in entries)
    return {name: _plain(" ".join(text.split())) for name, _, text in pairs}


def _plain(text: str) -> str:
    """ReStructuredText roles and double backquotes, as Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m.group(1).rpartition('.')[2]}`", text)
    return text.replace("``", "`").replace("|", "\\|")


def environments() -> str:
    """Every registered id: its class, its time limit and what it is made with."""
    import gymnasium as gym

    from rllib_offset.envs import ENV_IDS

    rows = ["| id | class | steps | made with |", "|---|---|---|---|"]
    for env_id in ENV_IDS:
        spec = gym.spec(env_id)
        name = str(spec.entry_point).rpartition(":")[2]
        arguments = ", ".join(f"`{key}={value!r}`" for key, value in spec.kwargs.items())
        rows.append(f"| `{env_id}` | `{name}` | {spec.max_episode_steps} | {arguments} |")
    return "\n".join(rows)


def metrics() -> str:
    """Every key that the package adds to a result, with the comment beside it."""
    rows: list[str] = []
    for line in (PACKAGE / "metrics.py").read_text(encoding="utf-8").splitlines():
        if title := re.fullmatch(r"# (.*)", line):
            rows += ["", f"**{title.group(1)}**", "", "| key | |", "|---|---|"]
        if constant := re.fullmatch(r'[A-Z_]+ = "([^"]+)"(?:  # (.*))?', line):
            rows.append(f"| `{constant.group(1)}` | {constant.group(2) or ''} |")
    return "\n".join(rows)


def commands() -> str:
    """The help of every verb."""
    from typer.testing import CliRunner

    from rllib_offset.cli import app

    verbs = (
        ["train"],
        ["train", "file"],
        ["evaluate"],
        ["propose"],
        ["report"],
        ["plan"],
        ["check"],
        ["paper"],
        ["labels"],
        ["replay-one"],
        ["example", "list"],
        ["example", "get"],
        ["example", "run"],
    )
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    parts = []
    for verb in verbs:
        text = CliRunner().invoke(app, [*verb, "--help"], env=environment).output
        parts.append(f"## rllib {' '.join(verb)}\n\n```text\n{text.strip()}\n```")
    return "\n\n".join(parts)


def examples() -> str:
    """What `rllib example list` prints."""
    from typer.testing import CliRunner

    from rllib_offset.cli import app

    lines = CliRunner().invoke(app, ["example", "list"]).output.splitlines()
    rows = (f"| `{name}` | {text.strip()} |" for name, _, text in (x.partition(" ") for x in lines))
    return "\n".join(["| id | what it shows |", "|---|---|", *rows])


TABLES = {
    table.__name__: table
    for table in (settings, defaults, environments, metrics, commands, examples)
}
