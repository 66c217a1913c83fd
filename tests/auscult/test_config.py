"""Configurations are data: names from a list, values of a type."""

from dataclasses import dataclass

import pytest

from auscult.config import override
from auscult.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One field of each kind."""

    rate: float = 1e-4
    steps: int = 200
    dim: int = 8
    balanced: bool = True
    label: str = "keyword"


def test_values_take_the_type_of_their_field() -> None:
    settings = ["rate=1", "steps=1_000", "balanced=No", "label=a=b"]
    assert override(Protocol(), settings) == Protocol(
        rate=1.0, steps=1000, balanced=False, label="a=b"
    )
    assert override(Protocol(), ["steps=1", "steps=2"]).steps == 2
    assert override(Protocol(), []) == Protocol()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rat=1", "Unknown configuration key 'rat'. Did you mean rate?"),
        ("steps=many", "steps=many: expected a value of type int"),
        ("steps=1.5", "steps=1.5: expected a value of type int"),
        ("balanced=perhaps", "balanced=perhaps: expected true or false"),
        ("label", "'label' is not an assignment; expected KEY=VALUE"),
        ("rate=__import__('os')", "expected a value of type float"),
        ("rate=nan", "rate=nan: expected a finite number of at most 1,000,000,000,000"),
        ("rate=-inf", "rate=-inf: expected a finite number"),
        ("rate=1e300", "rate=1e300: expected a finite number"),
        (f"steps={'9' * 23}", "expected a finite number of at most 1,000,000,000."),
        ("dim=100001", "dim=100001: expected a finite number of at most 100,000."),
        (f"steps={'9' * 5000}", "expected a value of type int"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        override(Protocol(), [setting])
    assert message in str(error.value)
