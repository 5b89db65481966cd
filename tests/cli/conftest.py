"""What the tests of the command share with those of the runners. Must never: hold fixtures of its own."""

from tests.runner.conftest import certificates

__all__ = ["certificates"]
