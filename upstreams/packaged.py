"""The tiny encoders that come with Auscult, each in a folder of weights/ with its model card.

They are small enough to ship, and each card says by how much its encoder is read better than its
random twin: enough for a demonstration and a test. They are no encoders to build on.
"""

from dataclasses import replace
from pathlib import Path

from auscult.address import Address
from auscult.errors import UserError
from auscult.upstream import Upstream

WEIGHTS = Path(__file__).parent / "weights"
PREFIX = "tiny_"


def load(address: Address, seed: int) -> Upstream:
    """Read a tiny encoder; inside ``random(...)`` keep only its shape.

    Raises:
        UserError: A checkpoint is named after it, which it has of its own.
    """
    from . import load_upstream

    upstream = load_upstream(str(place_of(address)))
    upstream.spec = replace(upstream.spec, name=str(address), source=f"auscult, {address.family}")
    return upstream


def place_of(address: Address) -> Address:
    """Return where a tiny encoder stands, as the address of its family; any other as it is.

    Raises:
        UserError: A checkpoint is named after it.
    """
    folder = WEIGHTS / address.family
    if not address.family.startswith(PREFIX) or not folder.is_dir():
        return address
    family = address.family.removeprefix(PREFIX)
    if address.checkpoint:
        raise UserError(f"{address.family} has its own weights; for a file write {family}:FILE.")
    # folders of their own format have a configuration beside the weights; other files hold it
    place = folder if (folder / "config.json").exists() else folder / "model.safetensors"
    return replace(address, family=family, checkpoint=str(place))
