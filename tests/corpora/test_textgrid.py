"""TextGrids as Praat and other programs write them, and as nobody should."""

import time
from pathlib import Path

import pytest

from auscult.corpora.textgrid import read_textgrid
from auscult.errors import UserError

LONG_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "say ""it"" 9"
    item [2]:
        class = "TextTier"
        name = "marks"
        xmin = 0
        xmax = 0.3
        points: size = 1
        points [1]:
            number = 0.2
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = "sp"
        intervals [2]:
            xmin = 0.1
            xmax = 0.25
            text = "IH1"
        intervals [3]:
            xmin = 0.25
            xmax = 0.31
            text = ""
"""
SHORT_GRID = """File type = "ooTextFile short"
"TextGrid"

0
0.3
<exists>
3
"IntervalTier"
"words"
0
0.3
2
0
0.1
""
0.1
0.3
"say ""it"" 9"
"TextTier"
"marks"
0
0.3
1
0.2
"x"
"IntervalTier"
"phones"
0
0.3
3
0
0.1
"sp"
0.1
0.25
"IH1"
0.25
0.31
""
"""
TIERS = {
    "words": ((0, 1600, ""), (1600, 4800, 'say "it" 9')),
    "phones": ((0, 1600, "sp"), (1600, 4000, "IH1"), (4000, 4960, "")),
}
FORMS = {
    "long": LONG_GRID,
    "short": SHORT_GRID,
    "short with the long header": SHORT_GRID.replace(
        'short"\n"TextGrid"', '"\nObject class = "TextGrid"'
    ),
    "no words at all": SHORT_GRID.replace("File type = ", ""),
    "on one line": LONG_GRID.replace("\n", " "),
    "comments": LONG_GRID.replace(
        "xmin = 0\n", 'xmin = 0 ! from 3 to "4"\n! a whole "line, 5\n    !<exists> 6\n'
    ),
    "no zero before the point": LONG_GRID.replace("0.", "."),
    "nothing after the point": LONG_GRID.replace("= 0\n", "= 0.\n"),
    "exponents": LONG_GRID.replace("0.1\n", "1e-1\n").replace("0.25\n", "+2.5E-01\n"),
    "line ends of Windows": LONG_GRID.replace("\n", "\r\n"),
    "old line ends of the Mac": LONG_GRID.replace("\n", "\r"),
    "points with time for number": LONG_GRID.replace("number = 0.2", "time = 0.2"),
    "tabs": LONG_GRID.replace("    ", "\t"),
    "words that are no numbers": LONG_GRID.replace("xmax =", "xmax (s1) [2]: a3 ="),
}


def grid(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "x.TextGrid"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_say_the_same(form: str, tmp_path: Path) -> None:
    assert read_textgrid(grid(tmp_path, FORMS[form])) == TIERS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_with_a_mark(encoding: str, tmp_path: Path) -> None:
    text = LONG_GRID.replace('"IH1"', '"ɪ"')
    assert read_textgrid(grid(tmp_path, text, encoding))["phones"][1] == (1600, 4000, "ɪ")


def test_texts_may_hold_anything(tmp_path: Path) -> None:
    text = LONG_GRID.replace('"sp"', '"! no comment\n0.5 <exists> ""quoted"""')
    symbol = read_textgrid(grid(tmp_path, text))["phones"][0].symbol
    assert symbol == '! no comment\n0.5 <exists> "quoted"'


def test_tiers_may_be_empty_or_missing(tmp_path: Path) -> None:
    empty = '"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "a" 0 1 0'
    assert read_textgrid(grid(tmp_path, empty)) == {"a": ()}
    assert read_textgrid(grid(tmp_path, '"ooTextFile" "TextGrid" 0 1 <absent>')) == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LONG_GRID, "", "is no TextGrid in Praat's text format"),
        (LONG_GRID, "no grid", "is no TextGrid in Praat's text format"),
        ('"TextGrid"', '"Sound"', "is no TextGrid in Praat's text format"),
        (LONG_GRID[600:], "", "ends too early: "),
        ("intervals: size = 3", "intervals: size = 4", "ends too early: an interval's begin"),
        ("intervals: size = 2", "intervals: size = 1e18", r"line 24: .*begin, found \"TextTier\""),
        ("\nsize = 3", "\nsize = 99999999999999999999", "ends too early: a tier's class"),
        ("\nsize = 3", "\nsize = 2.5", "line 7: expected a whole number for the number of tiers"),
        ("\nsize = 3", "\nsize = -1", "line 7: expected a whole number"),
        ("<exists>", "<EXISTS>", "line 6: expected <exists> or <absent> for whether there are"),
        ("<exists>", "< exists >", "line 6: expected <exists> or <absent>"),
        ("xmax = 0.25", "xmax = 1e400", "line 44: '1e400' is no finite number"),
        ("xmax = 0.25", "xmax = inf", "line 44: 'inf' is no finite number"),
        ("xmax = 0.25", "xmax = NaN", "line 44: 'NaN' is no finite number"),
        ("xmax = 0.25", "xmax = --undefined--", "line 44: '--undefined--' is no finite number"),
        ("xmax = 0.25", "xmax = 0,25", "line 44: '0,25' is no finite number"),
        ("xmax = 0.25", "xmax = 0.05", "line 44: tier 'phones' has an interval from 0.1 to 0.05"),
        ("xmin = 0.25", "xmin = 0.2", "0.2 to 0.31 s after one that ends at 0.25 s"),
        ("xmin = 0\n            xmax = 0.1", "xmin = -1\n xmax = 0.1", "interval from -1 to 0.1 s"),
        ('"IntervalTier"', '"PitchTier"', "'PitchTier' is no class of tiers"),
        ('"phones"', '"words"', "two interval tiers 'words'"),
        ('"IH1"', '"IH1', "is not closed|expected a"),
        ('0.31\n            text = ""', '0.31\n            text = "', "is not closed"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in LONG_GRID
    text = LONG_GRID.replace(old, new)
    began = time.monotonic()
    with pytest.raises(UserError, match=message):
        read_textgrid(grid(tmp_path, text))
    assert time.monotonic() - began < 1


def test_the_binary_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.TextGrid"
    path.write_bytes(b"ooBinaryFile\x08TextGrid" + bytes(16))
    with pytest.raises(UserError, match="binary format; save it as a text file"):
        read_textgrid(path)
