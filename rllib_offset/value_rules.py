"""Rules for values: in words for whoever broke one, and as a test.

Names and values in, a ``ValueError`` of one line out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

__all__ = [
    "ENVIRONMENT",
    "FLAG",
    "INFINITY",
    "MAPPING",
    "NONE",
    "SCHEDULE",
    "TEXT",
    "WIDTHS",
    "Rule",
    "check_value",
    "check_values",
    "choice",
    "names_among",
    "number",
    "whole",
]


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test; rules are joined by ``|``.

    Example:
        >>> rule = whole(1) | NONE
        >>> rule.text, rule.holds(None), rule.holds(0.5)
        ('a whole number >= 1, or None', True, False)
    """

    text: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(
            f"{self.text}, or {other.text}", lambda value: self.holds(value) or other.holds(value)
        )


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> Rule:
    """Return the rule of a finite number within ``[low, high]`` and strictly within the others."""
    return Rule(
        f"a number{_range(low, high, above, below)}",
        lambda x: _is_number(x) and low <= x <= high and above < x < below,
    )


def whole(low: float = -math.inf) -> Rule:
    """Return the rule of an integer of at least ``low``."""
    return Rule(
        f"a whole number{_range(low)}",
        lambda x: _is_number(x) and isinstance(x, Integral) and int(x) >= low,
    )


def choice(*names: str) -> Rule:
    """Return the rule of one of these words."""
    text = repr(names[0]) if len(names) == 1 else f"one of {list(names)}"
    return Rule(text, lambda value: isinstance(value, str) and value in names)


def names_among(*known: str) -> Rule:
    """Return the rule of a list with one or more of these words."""
    return Rule(
        f"a list with one or more of {list(known)}",
        lambda value: _is_list(value) and len(value) > 0 and all(item in known for item in value),
    )


NONE = Rule("None", lambda value: value is None)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
INFINITY = Rule("infinity", lambda value: value == math.inf)
MAPPING = Rule("a mapping", lambda value: isinstance(value, Mapping))
TEXT = Rule("text", lambda value: isinstance(value, str))
WIDTHS = Rule(
    "a list of whole numbers >= 1",
    lambda value: _is_list(value) and all(whole(1).holds(item) for item in value),
)
SCHEDULE = Rule(
    "a schedule [[0, value], [step, value], ...]",
    lambda value: _is_list(value) and len(value) > 1 and all(map(_is_pair, value)),
)
ENVIRONMENT = Rule(
    "the id, the class path or the class of an environment",
    lambda value: (isinstance(value, str) and value != "") or callable(value),
)


def check_values(given: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check every value that has a rule; samplers of a search are left to their draws.

    Raises:
        ValueError: One line: the rule that is broken and the value received.

    Example:
        >>> check_values({"gamma": "high"}, {"gamma": number(0, 1)})
        Traceback (most recent call last):
            ...
        ValueError: `gamma` must be a number within [0, 1], got 'high'
    """
    for name, value in given.items():
        rule = rules.get(name)
        if rule is not None and not _is_sampler(value):
            check_value(name, value, rule)


def check_value(name: str, value: Any, rule: Rule) -> None:
    """Raise ``ValueError`` if a value breaks its rule."""
    if not rule.holds(value):
        is_whole = isinstance(value, float) and value.is_integer() and rule.holds(int(value))
        hint = f"; write {int(value)}" if is_whole else ""
        raise ValueError(f"`{name.lstrip('_')}` must be {rule.text}, got {_shown(value)}{hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_pair(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and all(map(_is_number, value))


def _is_sampler(value: Any) -> bool:
    """Whether Tune will put a value in its place."""
    return callable(getattr(value, "sample", None)) or (
        isinstance(value, Mapping) and "grid_search" in value
    )


def _range(
    low: float, high: float = math.inf, above: float = -math.inf, below: float = math.inf
) -> str:
    """Say a range in words; ends that are infinite are left out."""
    start = f"[{low:g}" if low > -math.inf else f"({above:g}"
    end = f"{high:g}]" if high < math.inf else f"{below:g})"
    if "inf" not in start and "inf" not in end:
        return f" within {start}, {end}"
    if "inf" not in start:
        return f" {'>=' if low > -math.inf else '>'} {start[1:]}"
    return ""


def _shown(value: Any) -> str:
    """Return a value as text of reasonable length."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
