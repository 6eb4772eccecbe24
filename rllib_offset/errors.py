"""The one exception of the package; misuse raises ``ValueError``."""

__all__ = ["SlowSimulatorError", "kind_and_message"]


class SlowSimulatorError(RuntimeError):
    """A simulator raised, died, or could not be started.

    Args:
        message: What happened, on one line.
        seed: Seed of the episode in which it happened.
        step: How many steps of that episode, or which row of the request, came before.
        num_steps: Steps that an evaluation had taken until then.

    Example:
        >>> SlowSimulatorError("the slow simulator raised ValueError: no licence", seed=3).seed
        3
    """

    def __init__(
        self, message: str, *, seed: int | None = None, step: int | None = None, num_steps: int = 0
    ) -> None:
        super().__init__(message)
        self.seed = seed
        self.step = step
        self.num_steps = num_steps


def kind_and_message(error: BaseException) -> str:
    r"""Return what an error is and says, on one line.

    Example:
        >>> kind_and_message(ValueError("no\nlicence"))
        'ValueError: no licence'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())
