"""Users and groups of this machine, as settings name them: by name or by number.

Owns: what such a name or number may be, and the look-up.
Must never: raise for what a person can write, or take the number that means "leave it" to the kernel.
"""

from __future__ import annotations

import grp
import pwd
import re

__all__ = ["MOST_ID", "find_group", "find_user", "group_id", "user_id"]

# The next one is -1 to the kernel: the owner stays who it is (chown(2)).
MOST_ID = 2**32 - 2
NUMBER = re.compile(r"[0-9]{1,10}")


def find_user(given: str) -> pwd.struct_passwd | None:
    """What the system knows of a user."""
    number = _number(given)
    try:
        return pwd.getpwnam(given) if number is None else pwd.getpwuid(number)
    except (KeyError, ValueError):  # ValueError: it holds what no name can hold
        return None


def find_group(given: str) -> grp.struct_group | None:
    """The same of a group."""
    number = _number(given)
    try:
        return grp.getgrnam(given) if number is None else grp.getgrgid(number)
    except (KeyError, ValueError):
        return None


def user_id(given: str) -> int | None:
    """The number of a user; one that is written as a number need not be known here."""
    if (number := _number(given)) is not None:
        return number
    found = find_user(given)
    return None if found is None else found.pw_uid


def group_id(given: str) -> int | None:
    """The same for a group."""
    if (number := _number(given)) is not None:
        return number
    found = find_group(given)
    return None if found is None else found.gr_gid


def _number(given: str) -> int | None:
    """The id that `given` writes; none, if it is a name or no id."""
    if NUMBER.fullmatch(given) is None or int(given) > MOST_ID:
        return None
    return int(given)
