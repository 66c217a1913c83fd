"""Text from files where it leaves: no escape sequence, formula or markup of a stranger acts."""

import re
import unicodedata

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#])")


def shown(text: object, *, lines: bool = False) -> str:
    r"""Return text for a terminal: control characters, also those of direction, become escapes.

    Args:
        text: Anything; as ``str`` gives it.
        lines: Leave line breaks and tabs, as in a message of several lines.
    """
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or _harmless(c) else _escape(c) for c in str(text))


def csv_cell(value: object) -> object:
    """Return a value for a CSV file: text that a spreadsheet would calculate begins with ``'``."""
    if not isinstance(value, str):
        return value
    text = shown(value, lines=True)
    return f"'{text}" if value.startswith(_FORMULA) else text


def markdown_cell(value: object) -> str:
    """Return a value for a cell of a Markdown table: no markup, no HTML, on one line."""
    text = " ".join(shown(value, lines=True).split())
    return _MARKDOWN.sub(r"\\\1", text).replace("&", "&amp;")


def _harmless(character: str) -> bool:
    # Cc: controls; Cf: directions and invisible; Cs: lone surrogates; Zl, Zp: line separators
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return (
        character.encode("ascii", errors="backslashreplace").decode()
        if ord(character) > 127
        else f"\\x{ord(character):02x}"
    )
