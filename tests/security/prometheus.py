"""The text format of Prometheus, 0.0.4, read as strictly as `promtool check metrics` reads it.

Owns: `parse`. Must never: be lenient; what this refuses, somebody's scraper refuses.
"""

from __future__ import annotations

import math
import re

__all__ = ["Family", "parse"]

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? ([^ ]+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}

Labels = tuple[tuple[str, str], ...]


class Family:
    """One metric: its kind, its help, and its samples by name and labels."""

    def __init__(self, name: str, help: str) -> None:
        self.name = name
        self.help = help
        self.kind = ""
        self.samples: dict[tuple[str, Labels], float] = {}

    def value(self, suffix: str = "", **labels: str) -> float:
        return self.samples[self.name + suffix, tuple(sorted(labels.items()))]


def parse(text: bytes) -> dict[str, Family]:
    """Raises `AssertionError` for whatever is not by the book."""
    told = text.decode("utf-8")
    assert told.endswith("\n") and "\r" not in told
    families: dict[str, Family] = {}
    last: Family | None = None
    for line in told[:-1].split("\n"):
        assert line == line.strip() and line, f"an odd line: {line!r}"
        if line.startswith("# HELP "):
            name, _, help = line[7:].partition(" ")
            assert name not in families, f"{name}: a second family"
            assert help and help == help.strip(), f"{name}: no help"
            last = families[name] = Family(name, help)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert last is not None and last.name == name and not last.kind and not last.samples
            last.kind = kind
        else:
            assert last is not None and last.kind, f"a sample of no family: {line}"
            _sample(last, line)
    for family in families.values():
        _lint(family)
    return families


def _sample(family: Family, line: str) -> None:
    match = SAMPLE.fullmatch(line)
    assert match is not None, f"no sample: {line!r}"
    name, inside, value = match.groups()
    allowed = [family.name + suffix for suffix in SUFFIXES.get(family.kind, ("",))]
    assert name in allowed, f"{name} is not of {family.name}"
    labels: list[tuple[str, str]] = []
    rest = inside or ""
    while rest:
        found = LABEL.match(rest)
        assert found is not None, f"odd labels: {line!r}"
        labels.append((found[1], re.sub(r"\\.", lambda one: UNESCAPED[one[0]], found[2])))
        rest = rest[found.end() :]
        assert rest or not found[3], f"a comma at the end: {line!r}"
    assert len({key for key, _ in labels}) == len(labels), f"a label twice: {line!r}"
    key = (name, tuple(sorted(labels)))
    assert key not in family.samples, f"a sample twice: {line!r}"
    family.samples[key] = float(value)


def _lint(family: Family) -> None:
    """The habits that promtool insists on."""
    assert family.kind in ("counter", "gauge", "histogram"), family.name
    assert family.name.startswith("mcpgate_") and family.name == family.name.lower()
    assert family.name.endswith("_total") is (family.kind == "counter"), family.name
    assert not re.search(r"_(milliseconds|ms|kilobytes|kb|minutes)(_|$)", family.name), "no base unit"
    for value in family.samples.values():
        assert math.isfinite(value) and (family.kind == "gauge" or value >= 0)
    if family.kind == "histogram":
        _histogram(family)


def _histogram(family: Family) -> None:
    series: dict[Labels, list[tuple[float, float]]] = {}
    for (name, labels), value in family.samples.items():
        if name.endswith("_bucket"):
            bound = float(dict(labels)["le"])
            rest = tuple(one for one in labels if one[0] != "le")
            series.setdefault(rest, []).append((bound, value))
    for labels, buckets in series.items():
        assert buckets == sorted(buckets), "bounds rise"
        counts = [count for _, count in buckets]
        assert counts == sorted(counts), "buckets add up"
        assert math.isinf(buckets[-1][0])
        assert family.value("_count", **dict(labels)) == counts[-1]
        assert (family.name + "_sum", labels) in family.samples
