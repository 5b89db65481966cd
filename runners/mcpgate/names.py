"""Names that look like other names, and text that hides something.

Owns: `visible` (what a person would not see becomes an escape) and `name_problems` (what `mcpgate check` says
of the names of tools and prompts).
Must never: change a name that is used for anything but showing it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from mcpgate.logs import escaped
from mcpgate_proto.security.hidden import is_hidden

__all__ = ["name_problems", "visible"]

# Letters of other scripts that are drawn as Latin ones are, or nearly so: those of UTS 39 (confusables) that
# are found in spoofed names, by the Latin letter.
_LOOKALIKES = {
    "a": "\u0430\u03b1\u0251",
    "b": "\u042c\u0184",
    "c": "\u0441\u03f2\u1d04",
    "d": "\u0501\u217e",
    "e": "\u0435\u212e\u04bd",
    "g": "\u0261\u0581",
    "h": "\u04bb\u0570",
    "i": "\u0456\u03b9\u0131\u2170",
    "j": "\u0458\u03f3",
    "k": "\u03ba\u043a",
    "l": "\u04cf\u217c\u01c0\u0406",
    "m": "\u217f",
    "n": "\u0578\u057c",
    "o": "\u043e\u03bf\u0585\u05e1\u0d20\u3007",
    "p": "\u0440\u03c1",
    "q": "\u051b\u0563",
    "r": "\u0433\u1d26",
    "s": "\u0455\ua731",
    "t": "\u03c4\u0442",
    "u": "\u057d\u03c5\u1d1c",
    "v": "\u03bd\u0475\u2174",
    "w": "\u051d\u0461\u1d21",
    "x": "\u0445\u03c7\u2179",
    "y": "\u0443\u03b3\u04af",
    "z": "\u1d22",
    "A": "\u0410\u0391",
    "B": "\u0412\u0392",
    "C": "\u0421\u03f9",
    "E": "\u0415\u0395",
    "H": "\u041d\u0397",
    "I": "\u0399\u04c0",
    "J": "\u0408",
    "K": "\u041a\u039a",
    "M": "\u041c\u039c",
    "N": "\u039d",
    "O": "\u041e\u039f",
    "P": "\u0420\u03a1",
    "S": "\u0405",
    "T": "\u0422\u03a4",
    "X": "\u0425\u03a7",
    "Y": "\u04ae\u03a5",
    "Z": "\u0396",
    "-": "\u2010\u2011\u2012\u2013\u2212",
    "_": "\uff3f",
    ".": "\u2024\uff0e",
}
_PLAIN = {ord(char): latin for latin, chars in _LOOKALIKES.items() for char in chars}
# Drawn alike in many fonts; two names of one server that differ in these only are mistaken for each other.
_ALIKE = str.maketrans({"0": "o", "O": "o", "1": "l", "I": "l", "|": "l"})


def visible(text: str, most: int = 500) -> str:
    """`text` on one line, with an escape for every character that steers a terminal or is not seen."""
    shown = escaped(text, most)
    if shown.isascii():
        return shown
    return "".join(f"\\u{{{ord(char):x}}}" if is_hidden(char) else char for char in shown)


def _skeleton(name: str) -> str:
    """What a name looks like (UTS 39 section 4, cut down): equal skeletons are hard to tell apart."""
    folded = unicodedata.normalize("NFKC", name).translate(_PLAIN)
    seen = "".join(char for char in folded if not is_hidden(char))
    return seen.translate(_ALIKE).casefold().replace("-", "_").replace("rn", "m").replace("vv", "w")


def _scripts(name: str) -> list[str]:
    """The scripts of the letters in a name, by the first word of their names in Unicode."""
    found = dict.fromkeys(
        unicodedata.name(char, "UNNAMED").partition(" ")[0] for char in name if char.isalpha()
    )
    found.pop("FULLWIDTH", None)
    return list(found)


def name_problems(names: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """What is odd about (server, name) pairs: (server, name, problem), each in the order given."""
    found: list[tuple[str, str, str]] = []
    seen: dict[str, tuple[str, str]] = {}
    for server, name in names:
        problem = _problem(name)
        if problem:
            found.append((server, name, problem))
        other = seen.setdefault(_skeleton(name), (server, name))
        if other[1] != name:
            found.append((server, name, f"looks like {visible(other[1])} of {other[0]}"))
    return found


def _problem(name: str) -> str:
    if any(is_hidden(char) for char in name):
        return "holds characters that are not seen"
    scripts = _scripts(name)
    if len(scripts) > 1:
        return f"mixes scripts ({', '.join(script.lower() for script in scripts)})"
    if not name.isascii() and name.translate(_PLAIN).isascii():
        return f"is written in {scripts[0].lower() if scripts else 'odd'} letters that look like Latin ones"
    return ""
