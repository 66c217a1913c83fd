"""One string addresses an upstream, and says itself again."""

from pathlib import Path

import pytest

from auscult.address import Address, parse_address
from auscult.errors import UserError


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("fbank", Address("fbank")),
        (" fbank ", Address("fbank")),
        ("hf:/models/wavlm-base", Address("hf", "/models/wavlm-base")),
        ("hf:microsoft/wavlm-base", Address("hf", "microsoft/wavlm-base")),
        ("lighthubert:small.pt@a_small", Address("lighthubert", "small.pt", "a_small")),
        ("lighthubert@a_small", Address("lighthubert", "", "a_small")),
        ("s3prl:tera_local:/x.ckpt", Address("s3prl", "tera_local:/x.ckpt")),
        ("hf:/a@b/no/such", Address("hf", "/a@b/no/such")),
        ("lighthubert:/a@b/small.pt@a_small", Address("lighthubert", "/a@b/small.pt", "a_small")),
        ("lighthubert:s.pt@/x/y.json", Address("lighthubert", "s.pt", "/x/y.json")),
        ("lighthubert:s.pt@random(3)", Address("lighthubert", "s.pt", "random(3)")),
        ("lighthubert:s.pt@params<=40M", Address("lighthubert", "s.pt", "params<=40M")),
        ("random(light@random(3), seed=2)", Address("light", "", "random(3)", True, 2)),
        ("random(light@random(3))", Address("light", "", "random(3)", True)),
        ("random(light@heads=4-6,ffn=3, seed=2)", Address("light", "", "heads=4-6,ffn=3", True, 2)),
        ("random(hubert_base)", Address("hubert_base", random=True)),
        ("random(hubert_base, seed=3)", Address("hubert_base", random=True, seed=3)),
        ("random(hubert_base,3)", Address("hubert_base", random=True, seed=3)),
        ("random( hf:/m )", Address("hf", "/m", random=True)),
        ("random(lighthubert@a_small, seed=2)", Address("lighthubert", "", "a_small", True, 2)),
        ("hubert:x.pt?heads=8", Address("hubert", "x.pt", options=(("heads", "8"),))),
        (
            "random(wavlm:/a b/x.pt?norm=pre,strides=5-2, seed=3)",
            Address(
                *("wavlm", "/a b/x.pt", "", True, 3),
                options=(("norm", "pre"), ("strides", "5-2")),
            ),
        ),
        (
            "random(hubert:x.pt?heads=8,3)",
            Address("hubert", "x.pt", "", True, 3, (("heads", "8"),)),
        ),
        (
            "lighthubert:x.pt?heads=8@a_small",
            Address("lighthubert", "x.pt", "a_small", options=(("heads", "8"),)),
        ),
        (
            "s3prl:hubert_url:https://x.org/x.pt?download=true",
            Address("s3prl", "hubert_url:https://x.org/x.pt?download=true"),
        ),
        ("hubert:/what?/x.pt", Address("hubert", "/what?/x.pt")),
    ],
)
def test_parse(spec: str, address: Address) -> None:
    assert parse_address(spec) == address
    assert parse_address(str(address)) == address  # what it says leads to it again


def test_an_existing_path_may_hold_an_at(tmp_path: Path) -> None:
    folder = tmp_path / "model@2"
    assert parse_address(f"hf:{folder}").subnet == "2"
    folder.mkdir()
    assert parse_address(f"hf:{folder}") == Address("hf", str(folder))


def test_an_existing_path_may_hold_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "x?heads=8"
    assert parse_address(f"hubert:{path}").options == (("heads", "8"),)
    path.touch()
    assert parse_address(f"hubert:{path}") == Address("hubert", str(path))


@pytest.mark.parametrize(
    "options", ["", "8", "heads", "heads=", "=8", "heads=8,", "Heads=8", "a=b=c"]
)
def test_options_that_are_none(options: str) -> None:
    if options == "a=b=c":
        assert parse_address(f"hubert:x.pt?{options}").options == (("a", "b=c"),)
        return
    with pytest.raises(UserError, match="expected options such as"):
        parse_address(f"hubert:x.pt?{options}")


@pytest.mark.parametrize(
    ("checkpoint", "reason"),
    [
        ("a" * 5000, "File name too long"),
        ("a\0b", "holds a NUL"),
        ("~no-such-user/x", "home"),
        ("\ud800", "can't encode"),
    ],
)
@pytest.mark.parametrize("family", ["hubert", "lighthubert", "mockingjay", "w2v_bert", "hf"])
def test_names_that_no_file_has(family: str, checkpoint: str, reason: str) -> None:
    import auscult

    with pytest.raises(UserError, match=f"is no path: .*{reason}"):
        auscult.load(f"{family}:{checkpoint}")


def test_an_at_needs_a_subnet() -> None:
    with pytest.raises(UserError, match="write the subnet after it, or drop it"):
        parse_address("lighthubert:small.pt@")


@pytest.mark.parametrize(
    "spec", ["", "  ", ":x", "@a", "random(", "random()", "random(x", "x)", "random(random(x))"]
)
def test_unreadable(spec: str) -> None:
    with pytest.raises(UserError, match="cannot be read|write random once"):
        parse_address(spec)


@pytest.mark.parametrize("seed", [2**64, 10**22, "9" * 5000])
def test_a_seed_that_no_generator_takes(seed: object) -> None:
    assert parse_address(f"random(hubert_tiny, seed={2**64 - 1})").seed == 2**64 - 1
    with pytest.raises(UserError, match="expected a seed of at most 18,446,744,073,709,551,615"):
        parse_address(f"random(hubert_tiny, seed={seed})")
