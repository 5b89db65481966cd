"""`python -m fuzz.sim --seed N [--trace]`, or `--seeds A:B`: run seeds, say what came of them.

Owns: the command line. Must never: decide anything about a run.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from fuzz.sim.swarm import Options, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run one seed")
    parser.add_argument("--seeds", help="run seeds A up to and without B, as A:B")
    parser.add_argument("--trace", action="store_true", help="print every fact and effect")
    parser.add_argument("--digest", action="store_true", help="print seed and digest only")
    parser.add_argument(
        "--tolerate", default="", help="invariants whose known breach does not end a run: I2,I6"
    )
    options = parser.parse_args()
    tolerate = tuple(name for name in options.tolerate.split(",") if name)
    if (options.seed is None) == (options.seeds is None):
        parser.error("give --seed N or --seeds A:B")
    first, last = (
        (options.seed, options.seed + 1) if options.seed is not None else map(int, options.seeds.split(":"))
    )
    begun = time.monotonic()
    failed = 0
    simulated = facts = completed = calls = 0.0
    for seed in range(first, last):
        if options.seed is not None and not options.digest:
            print(Options.of(seed))
        try:
            outcome = run(seed, print if options.trace else None, tolerate)
        except Exception as problem:
            failed += 1
            print(f"seed {seed} FAILED: {type(problem).__name__}: {problem}")
            if options.seed is not None:
                traceback.print_exc()
            continue
        simulated += outcome.seconds
        facts += outcome.facts
        calls += outcome.calls
        completed += outcome.completed
        if options.digest:
            print(outcome.seed, outcome.digest)
        elif options.seed is not None:
            print(outcome)
    spent = time.monotonic() - begun
    if not options.digest:
        print(
            f"{last - first} seeds, {failed} failed; {completed:.0f} of {calls:.0f} tools/call completed, "
            f"{facts:.0f} facts; {simulated:.0f} s simulated in {spent:.1f} s ({simulated / spent:.0f}x)"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
