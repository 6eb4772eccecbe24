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

_Path = tuple[str, ...]


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
        prefix = () if key is None else _path_of(key)
        leaves = [] if prefix is None else list(_leaves(value_dict, prefix))
        if prefix is None or any(isinstance(value, list | tuple) for _, value in leaves):
            super().log_dict(value_dict, key=key, **settings)
            return
        settings = {"reduce": "mean"} | settings
        for path, value in leaves:
            self.log_value(path, value, **settings)

    @override(MetricsLogger)
    def aggregate(self, stats_dicts: list[dict[str, Any]], *, key: Any = None) -> None:
        prefix, incoming = () if key is None else _path_of(key), dict[_Path, list[Any]]()
        if prefix is not None:
            for stats in stats_dicts:
                for path, value in _leaves(stats, prefix):
                    incoming.setdefault(path, []).append(value)
        values = (value for together in incoming.values() for value in together)
        if prefix is None or not all(isinstance(value, StatsBase) for value in values):
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
                raise ValueError(f"cannot reduce {'/'.join(path)}: {error}") from error

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
        path = _path_of(flat_key)
        if path is None:
            is_there: bool = super()._key_in_stats(flat_key, stats=stats)
            return is_there
        below: Any = self.stats if stats is None else stats
        for name in path:
            if name not in below:
                return False
            below = below[name]
        return True

    @override(MetricsLogger)
    def _get_key(
        self, flat_key: Any, *, stats: dict[str, Any] | None = None, key_error: bool = True
    ) -> Any:
        path = _path_of(flat_key)
        if path is None:
            return super()._get_key(flat_key, stats=stats, key_error=key_error)
        below: Any = self.stats if stats is None else stats
        try:
            for name in path:
                below = below[name]
        except KeyError:
            if key_error:
                raise
            return {}
        return below

    @override(MetricsLogger)
    def _set_key(self, flat_key: Any, stats: StatsBase) -> None:
        path = _path_of(flat_key)
        if path is None:
            super()._set_key(flat_key, stats)
        else:
            _put(self.stats, path, stats)


def _path_of(key: Any) -> _Path | None:
    """Return a key as its parts; ``None`` where RLlib must say what these are."""
    if type(key) is str:
        return (key,)
    is_path = type(key) is tuple and all(type(part) is str for part in key)
    return key if is_path else None


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
