"""What a person types to get one number alone."""

import shlex

import pytest

from auscult.studies.call import Call, unless_default

ONE = Call(
    verb="probe",
    given={
        "upstream": "hf:models/wavlm-base",
        "corpus": "tsv:my speech",
        "task": "phone",
        "baselines": False,
        "probe": ["linear", "mlp1"],
        "skip_bad": True,
    },
)


def test_a_command_is_what_is_typed() -> None:
    words = shlex.split(str(ONE))
    assert words[:8] == [
        *("auscult", "probe", "-u", "hf:models/wavlm-base", "-c", "tsv:my speech", "-t", "phone"),
    ]
    assert words[8:] == ["--no-baselines", "--probe", "linear", "--probe", "mlp1", "--skip-bad"]


def test_settings_come_last_and_passwords_do_not_come() -> None:
    call = Call(verb="run", given={"store": "postgresql://me:secret@host/x"}, settings=("a=1",))
    assert str(call) == "auscult run --store postgresql://me:***@host/x a=1"


def test_an_object_is_named_in_python() -> None:
    call = Call(
        verb="probe",
        given={"upstream": "Mine", "corpus": "demo", "task": "phone", "baselines": False},
        live=frozenset({"Mine"}),
    )
    assert str(call) == "auscult.probe(Mine, 'demo', 'phone', baselines=False)"
    both = call.also(upstream=["fbank", "Mine"])
    assert str(both).startswith("auscult.probe(['fbank', Mine], 'demo', 'phone'")
    assert str(call.also(upstream="fbank")).startswith("auscult probe -u fbank")


@pytest.mark.parametrize("verb, function", [("subnet search", "search"), ("superb run", "superb")])
def test_functions_of_verbs_of_two_words(verb: str, function: str) -> None:
    call = Call(verb=verb, given={"corpus": "x"}, live=frozenset("x"), settings=("k=1",))
    assert call.python() == f"auscult.{function}(x, settings=['k=1'])"


def test_defaults_are_left_out() -> None:
    assert unless_default(seeds=(1, 1), split=("a", None)) == {"split": "a"}
