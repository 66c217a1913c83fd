"""Values that came as JSON or from a database, and may be anyone's; and how plain ones are told."""

import hashlib
import math
from collections.abc import Iterable, Mapping
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


def as_text(value: Any, depth: int = 0) -> str | None:
    """Return a text that is the same for equal plain values, and another for others.

    Args:
        value: Anything.
        depth: In how many others it stands.

    Returns:
        None for what is neither a number, a text, an array nor made of such, or is nested deep.
    """
    if depth > DEEPEST:
        return None
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype") and not isinstance(value, type):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(_content(value)).hexdigest()}"
    if isinstance(value, Mapping):
        keys, values = _texts(value, depth), _texts(value.values(), depth)
        if keys is None or values is None:
            return None
        return repr(sorted(zip(keys, values, strict=True)))
    if isinstance(value, list | tuple | set | frozenset):
        texts = _texts(value, depth)
        if texts is None:
            return None
        return repr(sorted(texts) if isinstance(value, set | frozenset) else texts)
    return None


def _texts(values: Iterable[Any], depth: int) -> list[str] | None:
    """Return the text of each value; None where one has none, without a look at the others."""
    found = []
    for value in values:
        text = as_text(value, depth + 1)
        if text is None:
            return None
        found.append(text)
    return found


def _content(array: Any) -> bytes:
    """Return what an array holds, of which nothing where it is on the meta device."""
    if getattr(array, "is_meta", False):
        return b""
    if hasattr(array, "detach"):
        import torch

        if array.layout == torch.strided and not array.is_quantized:
            flat = array.detach().cpu().contiguous().flatten()
            return bytes(flat.view(torch.uint8).numpy().data)
    elif getattr(array.dtype, "kind", "O") != "O" and hasattr(array, "tobytes"):
        return bytes(array.tobytes())
    return repr(array.tolist()).encode()
