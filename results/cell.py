"""Numbers as they stand in the cells of tables, on the screen and in files."""

from collections.abc import Sequence

from .curve import Point


def cell(point: Point, unit: str = "") -> str:
    """Write a value and its interval: ``0.532 [0.510, 0.553]``."""
    text = number(point.value, unit)
    if point.low is None or point.high is None:
        return text
    return f"{text} [{number(point.low, unit)}, {number(point.high, unit)}]"


def span(points: Sequence[Point], unit: str) -> str:
    """Write the least and the largest value, or the only one with its interval, and the unit."""
    values = [point.value for point in points]
    text = f"{number(min(values), unit)} to {number(max(values), unit)}"
    return f"{cell(points[0], unit) if len(points) == 1 else text} {unit}".rstrip()


def place(point: Point) -> str:
    """Name the layer of a point, and the head where it is about one."""
    layer = "model" if point.layer is None else str(point.layer)
    return layer if point.head is None else f"{layer}, head {point.head}"


def number(value: float, unit: str) -> str:
    """Write a share with three decimals, anything else with four digits."""
    if not unit:
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")
