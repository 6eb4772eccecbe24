"""What the tests of the cell share: whether PyBaMM is here."""

from importlib.util import find_spec

import pytest

needs_pybamm = pytest.mark.skipif(
    find_spec("pybamm") is None, reason="needs PyBaMM: pip install 'rllib-offset[battery]'"
)
