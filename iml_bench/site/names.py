"""Names of files and anchors: safe characters only, unique, and never a part of somebody's path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from iml_bench.paths import is_device_name

LONGEST = 60


def slug(name: str) -> str:
    """Lower-case letters, digits, dots and hyphens, at most ``LONGEST``; never empty, never starting with a dot."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:LONGEST].strip("-.") or "x"
    return f"x-{plain}" if is_device_name(plain) else plain


def unique_slugs(names: Mapping[str, str]) -> dict[str, str]:
    """A slug for each key of ``{key: name}``; where several names come to one, their keys are appended.

    Args:
        names: by the hash that identifies what is named.
    """
    plain = {key: slug(name) for key, name in names.items()}
    shared = {value for value, times in Counter(plain.values()).items() if times > 1}
    found = {key: f"{value}-{key[:8]}" if value in shared else value for key, value in plain.items()}
    if len(set(found.values())) == len(found):
        return found
    return {key: f"{slug(name)}-{key}" for key, name in names.items()}
