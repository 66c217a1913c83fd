"""Search spaces by numbers, over a stored network of any size, and as plain data in files."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from auscult.errors import UserError, quoted

from ..configuration import MAX_LAYERS, MAX_WIDTH
from .space import Dimensions, SearchSpace, ffn_dim, ffn_rows, kept_layers, uniform

_CHOICES = ("embed_dims", "heads", "ratios", "depths")
_MAX_CHOICES = 64  # of one kind
_SIZES = tuple(field.name for field in fields(Dimensions))


def build_space(
    name: str,
    stored: Dimensions,
    *,
    embed_dims: tuple[int, ...],
    heads: tuple[int, ...],
    ratios: tuple[float, ...],
    depths: tuple[int, ...],
) -> SearchSpace:
    """Return the space of these choices; its default is what the published spaces have as theirs.

    That is the middle embedding and heads, the widest feed-forward part and all layers.

    Raises:
        UserError: A choice that ``stored`` cannot be sliced to.
    """
    default = uniform(_middle(embed_dims), max(depths), _middle(heads), max(ratios), stored)
    space = SearchSpace(name, embed_dims, heads, ratios, depths, default, stored)
    _check(space)
    return space


def describe_space(space: SearchSpace) -> dict[str, Any]:
    """Return a space as plain data."""
    choices = {choice: list(getattr(space, choice)) for choice in _CHOICES}
    return {"name": space.name, **choices, "stored": asdict(space.stored)}


def read_space(found: Any, path: Path) -> SearchSpace:
    """Read what :func:`describe_space` made and ``path`` holds.

    Raises:
        UserError: Not such data, or a space that cannot be.
    """
    known = ("name", *_CHOICES, "stored")
    try:
        table, sizes = _table(found, known), _table(_table(found, known)["stored"], _SIZES)
        choices = {choice: _numbers(choice, table[choice]) for choice in _CHOICES}
        stored = Dimensions(**{name: _numbers(name, [sizes[name]])[0] for name in _SIZES})
        return build_space(str(table["name"]), stored, **choices)
    except UserError as error:
        raise UserError(f"{path}: its search space: {error}") from None


def _middle(values: tuple[int, ...]) -> int:
    return sorted(values)[len(values) // 2]


def _check(space: SearchSpace) -> None:
    stored = space.stored
    if stored.position_kernel % 2:
        raise UserError(f"the positional kernel is {stored.position_kernel}; expected an even one.")
    for depth in space.depths:
        kept_layers(depth, stored)
    if max(space.heads) > stored.heads:
        raise UserError(f"heads are {max(space.heads)}, and {stored.heads} are stored.")
    for embed_dim in space.embed_dims:
        if embed_dim > stored.width:
            raise UserError(f"embed_dim is {embed_dim}, and {stored.width} are stored.")
        if embed_dim % stored.position_groups:
            raise UserError(
                f"embed_dim is {embed_dim}; expected a multiple of {stored.position_groups}, the "
                "groups of the positional convolution."
            )
        for ratio in space.ratios:
            width = ffn_dim(embed_dim, ratio)
            if width < 1 or width != ratio * embed_dim:
                raise UserError(
                    f"ratio {ratio:g} of embed_dim {embed_dim} is {ratio * embed_dim:g}; expected "
                    "a whole number."
                )
            rows = ffn_rows(embed_dim, width, stored)
            if rows[-1][1] > stored.ffn or sum(b - a for a, b in rows) < width:
                raise UserError(
                    f"ratio {ratio:g} of embed_dim {embed_dim} needs more than the {stored.ffn} "
                    "feed-forward rows that are stored."
                )


def _table(found: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(found, Mapping) or set(found) != set(keys):
        raise UserError(f"expected a table of {', '.join(keys)}.")
    return found


def _numbers(name: str, values: Any) -> tuple[Any, ...]:
    kinds = (int, float) if name == "ratios" else (int,)
    if not isinstance(values, list) or not values:
        raise UserError(f"{name} is {quoted(values)}; expected a list of numbers.")
    if len(values) > _MAX_CHOICES:
        raise UserError(f"{name} holds {len(values)} numbers; expected {_MAX_CHOICES} at most.")
    most = MAX_LAYERS if name in ("layers", "depths") else MAX_WIDTH
    for value in values:
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
            raise UserError(
                f"{name} holds {quoted(value)}; expected a positive number, {most} at most."
            )
    return tuple(values)
