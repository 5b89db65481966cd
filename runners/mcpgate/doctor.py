"""`mcpgate doctor`: the deployment checklist, run against this machine and a config.

Owns: the order of the checks, what is printed, the exit code. What each check looks at is in
`doctor_checks.py`.
Must never: start or dial a server, change anything, or show a secret.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from mcpgate.cli_parts import EXIT_FAILURE, config_option
from mcpgate.doctor_checks import CHECKS, Facts, Finding, Verdict
from mcpgate.logs import escaped

__all__ = ["doctor", "examine"]

COLOURS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, an object per check.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
def doctor(config: Path | None, as_json: bool, strict: bool) -> int:
    """Check this machine and a config against the deployment checklist.

    Every line is a pass, a warning or a failure with its mend. The exit code is 1 if anything fails.
    """
    findings = examine(Facts.gather(config))
    if as_json:
        click.echo(json.dumps([_plain(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    bad = {Verdict.FAIL, Verdict.WARN} if strict else {Verdict.FAIL}
    return EXIT_FAILURE if any(finding.verdict in bad for finding in findings) else 0


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order of the checklist."""
    return [finding for check in CHECKS for finding in check(facts)]


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "found": finding.found,
        "mend": finding.mend,
    }


def _show(findings: list[Finding]) -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for finding in findings:
        word = f"{finding.verdict.value:<4}"
        if colour:
            word = click.style(word, fg=COLOURS[finding.verdict])
        click.echo(f"{word}  {finding.check:<14} {escaped(finding.found, 1000)}")
        if finding.mend:
            click.echo(f"{'':<21}mend: {escaped(finding.mend, 1000)}")
    counts = {verdict: sum(one.verdict is verdict for one in findings) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    click.echo(f"{len(findings)} checks: {told}")
