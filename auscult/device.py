"""Which device work is done on."""

import re
from typing import TYPE_CHECKING

from auscult.errors import UserError

if TYPE_CHECKING:
    import torch


def choose_device(name: "str | torch.device") -> str:
    """Resolve ``auto``; check that a named device is there.

    Raises:
        UserError: The device is not there.
    """
    import torch

    name = str(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"Device {name!r} is not known; expected auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count()
    if name != "cpu" and int(name.partition(":")[2] or 0) >= count:
        found = f"{count} GPUs" if count else "no GPU"
        raise UserError(f"Device {name!r} was asked for, but torch finds {found}; try device cpu.")
    return name
