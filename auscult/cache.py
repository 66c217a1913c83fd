"""Where features, scans and the demo corpus are kept from one command to the next."""

import os
from pathlib import Path

from auscult.errors import UserError

VARIABLE = "AUSCULT_CACHE"


def cache_folder() -> Path:
    """Return ``$AUSCULT_CACHE``, or a folder of the user's; it need not be there yet.

    Raises:
        UserError: The user's home is not known, and the variable is not set.
    """
    try:
        if named := os.environ.get(VARIABLE):
            return Path(named).expanduser()
        return Path.home() / ".cache" / "auscult"
    except RuntimeError as error:
        raise UserError(
            f"There is no home folder to keep features in; set {VARIABLE} to a folder."
        ) from error
