"""Values that came as JSON or from a database, and may be anyone's; and how plain ones are told."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 32  # lists and mappings in each other
LONGEST = 72  # characters of a value in a sentence; the fingerprint of a row fits


def check_json(name: str, value: Any, depth: int = 0) -> None:
    """Refuse what is no plain JSON value that every database holds.

    Args:
        name: What messages call it.
        value: The value, mappings and lists with all that they hold.
        depth: In how many others it stands.

    Raises:
        ValueError: NaN, an infinity, a number of more than 64 bits, or too deep.
    """
    if isinstance(value, dict | list | tuple):
        if depth == DEEPEST:
            raise ValueError(f"{name}: nested more than {DEEPEST} deep.")
        for item in value.values() if isinstance(value, dict) else value:
            check_json(name, item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: expected finite numbers, got {value}.")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: expected a whole number of at most 64 bits, got a longer one.")


def check_mapping(name: str, value: Any, *, of_text: bool = False) -> None:
    """Refuse what is no JSON object.

    Args:
        name: What messages call it.
        value: The value.
        of_text: Whether all that it holds must be text.

    Raises:
        ValueError: As :func:`check_json`, or it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a mapping, got {shorten(value)}.")
    strange = [one for one in value.values() if of_text and not isinstance(one, str)]
    if strange:
        raise ValueError(f"{name}: expected text in it, got {shorten(strange[0])}.")
    check_json(name, value)


def shorten(value: Any) -> str:
    """Return a value as it may stand in a sentence."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def as_text(value: Any) -> str | None:
    """Return a text that is the same for equal plain values, and another for others.

    Returns:
        None for what is neither a number, a text, an array nor made of such.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype") and not isinstance(value, type):
        content = b"" if getattr(value, "is_meta", False) else repr(value.tolist()).encode()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"
    if isinstance(value, Mapping):
        pairs = [(as_text(key), as_text(one)) for key, one in value.items()]
        if any(text is None for pair in pairs for text in pair):
            return None
        return repr(sorted((str(key), str(one)) for key, one in pairs))
    if isinstance(value, list | tuple | set | frozenset):
        texts = [as_text(one) for one in value]
        if any(text is None for text in texts):
            return None
        return repr(sorted(map(str, texts)) if isinstance(value, set | frozenset) else texts)
    return None
