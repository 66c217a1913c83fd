"""Text from files where it leaves: no escape sequence, formula or markup of a stranger acts."""

import re
import unicodedata
from functools import lru_cache

_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"  # what a spreadsheet calculates; also in full width
_CELL = re.compile(rf"^(?=\s*[{_FORMULA}]|[\t\r\n])|(?<=;)(?=\s*[{_FORMULA}])")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#$]|:(?=//)|(?<=www)\.)")  # bare links are links too
_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\u2193": r"$\downarrow$",
        "\u2191": r"$\uparrow$",
    }
)


def shown(text: object, *, lines: bool = False) -> str:
    r"""Return text for a terminal: control characters, also those of direction, become escapes.

    Args:
        text: Anything; as ``str`` gives it.
        lines: Leave line breaks and tabs, as in a message of several lines.
    """
    found = str(text)
    if found.isprintable():
        return found
    if lines:
        return "".join(
            part if part in "\n\t" else shown(part) for part in re.split(r"([\n\t])", found)
        )
    return "".join(c if _harmless(c) else _escape(c) for c in found)


def on_one_line(text: object) -> str:
    """Return text for a terminal as :func:`shown`, line breaks and tabs as spaces."""
    found = str(text)
    return found if found.isprintable() else shown(re.sub(r"[\r\n\t]+", " ", found))


def csv_cell(value: object) -> object:
    """Return a value for a CSV file, on one line; ``'`` stands before what is calculated elsewhere.

    So has a formula after a semicolon inside of text, which begins a cell where a spreadsheet takes
    semicolons for separators.
    """
    return _csv_text(value) if isinstance(value, str) else value


@lru_cache(maxsize=2**12)  # most text of a table stands there many times
def _csv_text(text: str) -> str:
    return shown(_CELL.sub("'", text))


def markdown_cell(value: object) -> str:
    """Return a value for a cell of a Markdown table: no markup, link or HTML, on one line."""
    text = " ".join(shown(value, lines=True).split())
    return _MARKDOWN.sub(r"\\\1", text).replace("&", "&amp;")


def latex_cell(value: object) -> str:
    r"""Return a value for a cell of a LaTeX table: no command, on one line.

    What ``\\`` or a rule before it would read as its argument stands in braces.
    """
    text = " ".join(shown(value, lines=True).split()).translate(_LATEX)
    return f"{{{text[0]}}}{text[1:]}" if text.startswith(("[", "*")) else text


def _harmless(character: str) -> bool:
    # Cc: controls; Cf: directions and invisible; Cs: lone surrogates; Zl, Zp: line separators
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return (
        character.encode("ascii", errors="backslashreplace").decode()
        if ord(character) > 127
        else f"\\x{ord(character):02x}"
    )
