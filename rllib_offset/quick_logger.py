"""RLlib's metrics logger, for what it holds: dictionaries in dictionaries, named by strings.

RLlib flattens every key, and walks through all values, as if they could be any nested structure.
An update looks up some two hundred keys and walks seven times, which takes it a millisecond.
"""

from collections.abc import Callable, Iterator
from typing import Any, Self

from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.rllib.utils.metrics.stats.base import StatsBase

__all__ = ["QuickLoggerMixin", "QuickMetricsLogger"]

_Path = tuple[Any, ...]  # strings, by custom


class QuickLoggerMixin:
    """Gives a class of RLlib's the quick logger wherever RLlib gives it its own."""

    _metrics: MetricsLogger

    @property
    def metrics(self) -> MetricsLogger:
        """Where the figures of this component go."""
        return self._metrics

    @metrics.setter
    def metrics(self, logger: MetricsLogger) -> None:
        is_rllibs = type(logger) is MetricsLogger  # and no other that a user has given
        self._metrics = QuickMetricsLogger.in_place_of(logger) if is_rllibs else logger


class QuickMetricsLogger(MetricsLogger):
    """A ``MetricsLogger`` of the same results, saved in the same way."""

    @classmethod
    def in_place_of(cls, logger: MetricsLogger) -> Self:
        """Return one that goes on with what ``logger`` has."""
        quick = cls()
        quick.__dict__.update(logger.__dict__)
        return quick

    @override(MetricsLogger)
    def log_dict(self, value_dict: dict[str, Any], *, key: Any = None, **settings: Any) -> None:
        leaves = list(_leaves(value_dict, _path_of(() if key is None else key)))
        if any(isinstance(value, list | tuple) for _, value in leaves):
            super().log_dict(value_dict, key=key, **settings)
            return
        settings = {"reduce": "mean"} | settings
        for path, value in leaves:
            self.log_value(path, value, **settings)

    @override(MetricsLogger)
    def aggregate(self, stats_dicts: list[dict[str, Any]], *, key: Any = None) -> None:
        above, incoming = _path_of(() if key is None else key), dict[_Path, list[Any]]()
        for stats in stats_dicts:
            for path, value in _leaves(stats, above):
                incoming.setdefault(path, []).append(value)
        values = (value for together in incoming.values() for value in together)
        if not all(isinstance(value, StatsBase) for value in values):
            super().aggregate(stats_dicts, key=key)
            return
        for path, together in incoming.items():
            own = self._get_key(path, key_error=False)
            if not isinstance(own, StatsBase):
                own = self._made_for(together[0])
                self._set_key(path, own)
            assert not own.is_leaf, f"{path} has values of its own: aggregate under another key"
            own.merge(incoming_stats=together)

    def _made_for(self, incoming: StatsBase) -> StatsBase:
        """Return an empty statistic that others like ``incoming`` are merged into."""
        own = incoming.clone({"is_root": self._is_root_logger, "is_leaf": False})
        if own.has_throughputs:
            own.initialize_throughput_reference_time(self._time_when_initialized)
        return own

    @override(MetricsLogger)
    def reduce(self, compile: bool = False) -> dict[str, Any]:
        def reduced(path: _Path, stats: StatsBase) -> Any:
            try:
                return stats.reduce(compile=compile)
            except Exception as error:
                raise ValueError(f"cannot reduce {'/'.join(map(str, path))}: {error}") from error

        with self._threading_lock:
            return _mapped(reduced, self.stats)

    @override(MetricsLogger)
    def _get_throughputs(self, key: Any = None, default: Any = None) -> Any:
        if key is not None:
            return super()._get_throughputs(key, default)
        throughputs: dict[str, Any] = {}
        for (*above, name), stats in _leaves(self.stats):
            if stats.has_throughputs:
                _put(throughputs, (*above, f"{name}_throughput"), stats.throughputs)
        return throughputs or default

    @override(MetricsLogger)
    def _key_in_stats(self, flat_key: Any, *, stats: dict[str, Any] | None = None) -> bool:
        below: Any = self.stats if stats is None else stats
        for name in _path_of(flat_key):
            if name not in below:
                return False
            below = below[name]
        return True

    @override(MetricsLogger)
    def _get_key(
        self, flat_key: Any, *, stats: dict[str, Any] | None = None, key_error: bool = True
    ) -> Any:
        below: Any = self.stats if stats is None else stats
        try:
            for name in _path_of(flat_key):
                below = below[name]
        except KeyError:
            if key_error:
                raise
            return {}
        return below

    @override(MetricsLogger)
    def _set_key(self, flat_key: Any, stats: StatsBase) -> None:
        _put(self.stats, _path_of(flat_key), stats)


def _path_of(key: Any) -> _Path:
    """Return a key as its parts, however it is nested."""
    if type(key) is str:
        return (key,)
    if type(key) is tuple and all(type(part) is str for part in key):
        return key
    if not isinstance(key, list | tuple):
        return (key,)
    return tuple(part for nested in key for part in _path_of(nested))


def _leaves(nested: dict[str, Any], above: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _mapped(
    function: Callable[[_Path, Any], Any], nested: dict[str, Any], above: _Path = ()
) -> dict[str, Any]:
    return {
        name: _mapped(function, value, (*above, name))
        if isinstance(value, dict)
        else function((*above, name), value)
        for name, value in nested.items()
    }


def _put(nested: dict[str, Any], path: _Path, value: Any) -> None:
    for name in path[:-1]:
        nested = nested.setdefault(name, {})
    nested[path[-1]] = value
