"""A corpus' lists and labels, read as text: what is wrong with the file is said in a sentence."""

from pathlib import Path

from auscult.errors import UserError


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text, with or without a byte order mark.

    Raises:
        UserError: The file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}.") from error
