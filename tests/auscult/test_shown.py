"""Text of strangers, where it leaves."""

import pytest

from auscult.shown import csv_cell, markdown_cell, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain Käse α 漢", "plain Käse α 漢"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\tc", r"a\x0ab\x09c"),
        ("\x9b2J \u202egnp.exe \u2028 \ufeff", r"\x9b2J \u202egnp.exe \u2028 \ufeff"),
        ("\ud800", r"\ud800"),
        (3.5, "3.5"),
    ],
)
def test_terminal(text: object, expected: str) -> None:
    assert shown(text) == expected


def test_messages_keep_their_lines() -> None:
    assert shown("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_csv(start: str) -> None:
    assert str(csv_cell(f"{start}cmd|' /C calc'!A0")).startswith("'")
    assert csv_cell(-0.5) == -0.5 and csv_cell("a=b") == "a=b"


def test_markdown() -> None:
    assert markdown_cell("https://x.org www.x.org") == r"https\://x.org www\.x.org"
    assert markdown_cell("a|b\n<script>") == r"a\|b \<script\>"
    assert markdown_cell("[x](y) & `z`") == r"\[x\](y) &amp; \`z\`"
