"""The tiny encoders that come with Auscult, each in a folder of weights/ with its model card.

They are small enough to ship and trained well enough to differ from their random twins, which is
what a demonstration and a test need; they are no encoders to build on.
"""

from dataclasses import replace
from pathlib import Path

from auscult.address import Address
from auscult.errors import UserError
from auscult.upstream import Upstream

WEIGHTS = Path(__file__).parent / "weights"


def load(address: Address, seed: int) -> Upstream:
    """Read a tiny encoder; inside ``random(...)`` keep only its shape.

    Raises:
        UserError: A checkpoint is named after it, which it has of its own.
    """
    from . import load_upstream

    family = address.family.removeprefix("tiny_")
    if address.checkpoint:
        raise UserError(f"{address.family} has its own weights; for a file write {family}:FILE.")
    folder = WEIGHTS / address.family
    # folders of their own format have a configuration beside the weights; other files hold it
    place = folder if (folder / "config.json").exists() else folder / "model.safetensors"
    upstream = load_upstream(str(replace(address, family=family, checkpoint=str(place))))
    upstream.spec = replace(upstream.spec, name=str(address), source=f"auscult, {address.family}")
    return upstream
