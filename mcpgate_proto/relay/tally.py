"""What calls came to, by server: how many, how they ended, how long they took.

Owns: `Tally` and the table of them. Must never: tell callers or tools apart, of which there is no end.
"""

from __future__ import annotations

__all__ = ["BOUNDS_S", "OUTCOMES", "Tallies", "Tally"]

# The default buckets of Prometheus client libraries, cut below a millisecond of work and up to a minute.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OUTCOMES = ("ok", "error", "cancelled", "input_required")


class Tally:
    """One server."""

    __slots__ = ("buckets", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        # How many took no longer than each bound, and the rest; not added up.
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.seconds = 0.0


class Tallies:
    """All servers that calls went to, by their configured names."""

    def __init__(self) -> None:
        self.servers: dict[str, Tally] = {}

    def of(self, server: str) -> Tally:
        """Of a server without calls there is one too."""
        return self.servers.get(server) or Tally()

    def note(self, server: str, outcome: str, seconds: float) -> None:
        """One call is over."""
        tally = self.servers.get(server)
        if tally is None:
            tally = self.servers[server] = Tally()
        tally.outcomes[outcome] += 1
        bucket = 0
        while bucket < len(BOUNDS_S) and BOUNDS_S[bucket] < seconds:
            bucket += 1
        tally.buckets[bucket] += 1
        tally.seconds += seconds
