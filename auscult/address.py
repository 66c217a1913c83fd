"""One string addresses an upstream everywhere: ``family[:checkpoint][@subnet]``."""

import re
from dataclasses import dataclass
from pathlib import Path

from auscult.errors import UserError


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

    def __str__(self) -> str:
        text = self.family
        text += f":{self.checkpoint}" if self.checkpoint else ""
        text += f"@{self.subnet}" if self.subnet else ""
        if not self.random:
            return text
        return f"random({text})" if self.seed is None else f"random({text}, seed={self.seed})"


def parse_address(spec: str) -> Address:
    """Take an upstream spec apart.

    Raises:
        UserError: Empty spec, unbalanced parenthesis, or ``random`` of ``random``.
    """
    text = spec.strip()
    wrapped = re.fullmatch(r"random\((.*?)(?:,\s*(?:seed\s*=\s*)?(\d+)\s*)?\)", text)
    if wrapped:
        inner = parse_address(wrapped[1])
        if inner.random:
            raise UserError(f"Upstream {spec!r} is random(random(...)); write random once.")
        seed = int(wrapped[2]) if wrapped[2] else None
        return Address(inner.family, inner.checkpoint, inner.subnet, random=True, seed=seed)
    if text.endswith("@"):
        raise UserError(f"Upstream {spec!r} ends in @: write the subnet after it, or drop it.")
    family, _, rest = text.partition(":")
    subnet = ""
    if not rest:
        family, _, subnet = family.partition("@")
    elif "@" in rest and not Path(rest).expanduser().exists():  # a path may itself hold an @
        head, _, tail = rest.rpartition("@")
        of_path = "/" in tail and not tail.endswith(".json")  # a subnet may stand in a file
        rest, subnet = (rest, "") if of_path else (head, tail)
    if not family or "(" in family or ")" in family:
        raise UserError(
            f"Upstream {spec!r} cannot be read: expected family[:checkpoint][@subnet], "
            "such as fbank, hf:/models/wavlm-base or random(hubert_base)."
        )
    return Address(family, rest, subnet)
