"""One string addresses an upstream everywhere: ``family[:checkpoint][?options][@subnet]``."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from auscult.errors import UserError, quoted
from auscult.value import shorten

MOST_SEED = 2**64 - 1  # of torch's generators


@dataclass(frozen=True, slots=True)
class Address:
    """An upstream spec taken apart.

    ``random(SPEC)`` and ``random(SPEC, seed=3)`` have ``random`` set and keep the inner address
    in the other fields.
    """

    family: str
    checkpoint: str = ""
    subnet: str = ""
    random: bool = False
    seed: int | None = None
    options: tuple[tuple[str, str], ...] = ()  # what a file does not say: ?heads=12,norm=pre

    def __str__(self) -> str:
        text = self.family
        text += f":{self.checkpoint}" if self.checkpoint else ""
        text += f"?{','.join('='.join(pair) for pair in self.options)}" if self.options else ""
        text += f"@{self.subnet}" if self.subnet else ""
        if not self.random:
            return text
        return f"random({text})" if self.seed is None else f"random({text}, seed={self.seed})"


def parse_address(spec: str) -> Address:
    """Take an upstream spec apart.

    Raises:
        UserError: No text, empty spec, unbalanced parenthesis, ``random`` of ``random``, or a seed
            that no generator takes.
    """
    if not isinstance(spec, str):
        raise UserError(f"{shorten(spec)} is no address; expected a text, such as hf:FOLDER.")
    text = spec.strip()
    wrapped = re.fullmatch(r"random\((.*?)(?:,\s*(?:seed\s*=\s*)?(\d+)\s*)?\)", text)
    if wrapped:
        inner = parse_address(wrapped[1])
        if inner.random:
            raise UserError(f"Upstream {spec!r} is random(random(...)); write random once.")
        if wrapped[2] and (len(wrapped[2]) > 20 or int(wrapped[2]) > MOST_SEED):
            raise UserError(f"{quoted(text)}: expected a seed of at most {MOST_SEED:,}.")
        seed = int(wrapped[2]) if wrapped[2] else None
        return replace(inner, random=True, seed=seed)
    if text.endswith("@"):
        raise UserError(f"Upstream {spec!r} ends in @: write the subnet after it, or drop it.")
    family, _, rest = text.partition(":")
    subnet = ""
    if not rest:
        family, _, subnet = family.partition("@")
    elif "@" in rest and not _exists(rest):  # a path may itself hold an @
        head, _, tail = rest.rpartition("@")
        # a subnet may stand in a file; code stands in one whose name may have an @
        of_path = "/" in tail and not tail.endswith(".json") or ".py:" in tail
        rest, subnet = (rest, "") if of_path else (head, tail)
    if not family or "(" in family or ")" in family:
        raise UserError(
            f"Upstream {spec!r} cannot be read: expected family[:checkpoint][?options][@subnet], "
            "such as fbank, hf:/models/wavlm-base or random(hubert_base)."
        )
    rest, options = _options(rest, spec)
    return Address(family, rest, subnet, options=options)


def place(checkpoint: str) -> Path:
    """Return the path that a checkpoint is named by, with ~ for a home folder.

    Raises:
        UserError: No file can have that name.
    """
    try:
        path = Path(checkpoint).expanduser()
        os.fsencode(path)
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long; half a letter; no such user
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UserError(f"{quoted(checkpoint)} is no path: {reason}.") from error
    if "\0" in checkpoint:
        raise UserError(f"{quoted(checkpoint)} is no path: it holds a NUL.")
    return path


def _exists(checkpoint: str) -> bool:
    try:
        return place(checkpoint).exists()
    except UserError:
        return False


def _options(rest: str, spec: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Take ``?name=value,...`` off a checkpoint; a path or a web address may itself hold a ?."""
    head, mark, tail = rest.rpartition("?")
    if not mark or "://" in rest or "/" in tail or ".py:" in tail or _exists(rest):
        return rest, ()
    parts = [part.partition("=") for part in tail.split(",")]
    pairs = [(name, value) for name, _, value in parts]
    if not all(re.fullmatch(r"[a-z_]+", name) and value for name, value in pairs):
        raise UserError(
            f"Upstream {spec!r} cannot be read: expected options such as ?heads=12,norm=pre behind "
            f"the file, got {tail!r}."
        )
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"Upstream {spec!r} gives an option twice.")
    return head, tuple(pairs)
