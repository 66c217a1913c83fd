"""Configurations: frozen dataclasses whose defaults are the protocol, changed by KEY=VALUE."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from auscult.errors import UserError, unknown
from auscult.value import shorten

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

MOST_STEPS, MOST = 10**9, 10**5  # of whole numbers: of steps, and of sizes and all others
MOST_FLOAT = 1e12
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def override(config: "T", assignments: Sequence[str]) -> "T":
    """Return ``config`` with ``KEY=VALUE`` assignments applied; values are read as data.

    Args:
        config: A dataclass whose fields are bool, int, float or str.
        assignments: Such as ``learning_rate=1e-3``.

    Raises:
        UserError: An assignment without ``=``, an unknown key, or a value of another type.
    """
    kinds = get_type_hints(type(config))
    known = [field.name for field in fields(config)]
    changes: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"{assignment!r} is not an assignment; expected KEY=VALUE.")
        if key not in known:
            raise unknown("configuration key", key, known)
        changes[key] = _read(key, text, kinds[key])
    return replace(config, **changes)


def _read(key: str, text: str, kind: type) -> object:
    try:
        value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        expected = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise UserError(f"{key}={text[:40]}: expected {expected}.") from error
    most = MOST_FLOAT if kind is float else MOST_STEPS if "step" in key else MOST
    if kind in (int, float) and not abs(value) <= most:  # NaN neither
        raise UserError(f"{key}={text[:40]}: expected a finite number of at most {most:,.0f}.")
    return value


_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def parse_bytes(text: str) -> int:
    """Read a size such as 500MB or 8GB.

    Raises:
        UserError: Not a size.
    """
    unit = text[-2:].upper()
    number, unit = (text[:-2], unit) if unit in _UNITS else (text, "")
    try:
        size = int(float(number) * _UNITS.get(unit, 1))
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise UserError(f"budget (--budget) {text!r}: expected a size such as 500MB or 8GB.")
    return size


def parse_rates(text: str) -> tuple[float, ...]:
    """Read learning rates with commas between.

    Raises:
        UserError: Not positive numbers.
    """
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not all(0 < rate < 1e6 for rate in rates) or not rates:
        raise UserError(
            f"learning_rates (--learning-rates) {text!r}: expected positive numbers with commas "
            "between, such as 1e-2,1e-3."
        )
    return tuple(dict.fromkeys(rates))


def whole_number(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, or a small one; None means that nothing was given.

    Raises:
        UserError: It is one of these.
    """
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={value!r}: expected a whole number of at least {least}.")


def assignments(value: "str | Iterable[str] | Mapping[str, object]") -> list[str]:
    """Return settings as texts ``KEY=VALUE``: of one text, several, or values by key.

    Raises:
        UserError: It is none of these.
    """
    if isinstance(value, Mapping):
        return [f"{key}={one}" for key, one in value.items()]
    return several(value)


def several(value: "str | Iterable[str]") -> list[str]:
    """Return one text or several as a list.

    Raises:
        UserError: It is neither.
    """
    found = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if wrong := [one for one in found if not isinstance(one, str)]:
        raise UserError(f"Expected a text or several, got {shorten(wrong[0])}.")
    return found
