"""Every message of every gateway in these tests is held against the schemas (L0.5)."""

from tests.wiretap.fixtures import messages_are_judged

__all__ = ["messages_are_judged"]
