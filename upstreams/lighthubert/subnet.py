"""What may follow @ in a LightHuBERT address: names, budgets, files and subnets in full."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from auscult.errors import UserError, quoted, unknown
from auscult.kept import OBJECT_SEAL, is_damaged
from auscult.progress import logger
from auscult.text import read_bytes

from .budget import largest_within, read_limit
from .cost import count_parameters, count_superb_macs
from .space import BASE, SMALL, Dimensions, ExtractorMode, SearchSpace, Subnet, ffn_dim

NAMED: Mapping[str, SearchSpace] = {"a_small": SMALL, "a_base": BASE}
_FORMS = ("default", "smallest", "largest", "random(0)", "params<=40M", "macs<=800G", "FILE.json")
_INLINE = "embed=384,depth=12,heads=6,ffn=4"
_INLINE_KEYS = ("embed", "depth", "heads", "ffn")
_DICT_KEYS = ("atten_dim", "embed_dim", "ffn_embed", "heads_num", "layer_num", "slide_wsz")
_SCALARS = ("embed_dim", "layer_num")

Number = TypeVar("Number", int, float)


def parse_subnet(text: str, space: SearchSpace, extractor_mode: ExtractorMode) -> Subnet:
    """Read what stands behind @; nothing there means the default of ``space``.

    Args:
        text: ``a_small``, ``a_base``, ``default``, ``smallest``, ``largest``, ``random(SEED)``,
            ``params<=40M``, ``macs<=800G``, a ``.json`` file, or
            ``embed=512,depth=11,heads=8,ffn=3.5`` with one value for all layers or, joined with -,
            one for each.
        space: Where the subnet must lie.
        extractor_mode: Norm of the convolutional extractor, which counts as parameters.

    Raises:
        UserError: Not one of these forms, or a subnet outside ``space``.
    """
    text = text.strip()
    if not text:
        return space.default
    with _named(f"Subnet @{text}"):
        subnet = _read(text, space, extractor_mode)
        space.check(subnet)
    return subnet


def read_subnet(found: Any, space: SearchSpace, source: str) -> Subnet:
    """Read the reference implementation's dict, which ``source`` holds.

    Raises:
        UserError: Not such a dict, or a subnet outside ``space``.
    """
    with _named(source):
        subnet = _from_dict(found, space.stored)
        space.check(subnet)
    return subnet


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say in a user's mistake where it stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _from_dict(found: Any, stored: Dimensions) -> Subnet:
    if isinstance(found, Mapping) and isinstance(found.get("subnet"), Mapping):
        found = found["subnet"]  # as `auscult subnet show --json` and export write it
    if not isinstance(found, Mapping):
        raise UserError(f"expected an object with {', '.join(_DICT_KEYS)}.")
    for key in found:
        if key not in (*_DICT_KEYS, "ffn_ratio"):
            raise unknown("field", str(key), (*_DICT_KEYS, "ffn_ratio"))
    for key in _DICT_KEYS:
        if key not in found:
            raise UserError(f"{key} is missing; a subnet has {', '.join(_DICT_KEYS)}.")
    embed_dim = _whole("embed_dim", found["embed_dim"])
    depth = _whole("layer_num", found["layer_num"])
    lists = {key: _entries(key, found[key], depth) for key in found if key not in _SCALARS}
    heads = [_whole(f"heads_num[{i}]", value) for i, value in enumerate(lists["heads_num"])]
    widths = [_whole(f"ffn_embed[{i}]", value) for i, value in enumerate(lists["ffn_embed"])]
    times = f"{stored.head_dim} * heads_num"
    for i in range(depth):
        _same(f"atten_dim[{i}]", lists["atten_dim"][i], stored.head_dim * heads[i], times)
        _same(f"slide_wsz[{i}]", lists["slide_wsz"][i], "global", "attention over all frames")
        if "ffn_ratio" in lists:
            ratio = widths[i] / embed_dim
            _same(f"ffn_ratio[{i}]", lists["ffn_ratio"][i], ratio, "ffn_embed / embed_dim")
    return Subnet(embed_dim, tuple(heads), tuple(widths), stored)


def _read(text: str, space: SearchSpace, extractor_mode: ExtractorMode) -> Subnet:
    if text in NAMED and NAMED[text].name != space.name:
        raise UserError(
            f"this is a subnet of the {NAMED[text].name} space, not of the {space.name} one."
        )
    if text in NAMED or text == "default":
        return space.default
    if text == "smallest":
        return space.smallest
    if text == "largest":
        return space.largest
    drawn = re.fullmatch(r"random\(\s*(?:seed\s*=\s*)?(\d{1,18})\s*\)", text)
    if drawn:
        return space.sample(int(drawn[1]))
    budget = re.fullmatch(r"(params|macs)\s*([<>=]+)(.*)", text)
    if budget:
        return _within(budget[1], budget[2], budget[3].strip(), space, extractor_mode)
    if text.endswith(".json"):
        return _from_file(Path(text).expanduser(), space.stored)
    if "=" in text:
        return _inline(text, space)
    raise unknown("form", text, (*NAMED, *_FORMS, _INLINE))


def _within(
    what: str, sign: str, limit: str, space: SearchSpace, extractor_mode: ExtractorMode
) -> Subnet:
    budget = int(read_limit(what, sign, limit))
    parameters = partial(count_parameters, extractor_mode=extractor_mode)
    count = parameters if what == "params" else count_superb_macs
    unit = "parameters" if what == "params" else "MACs over SUPERB's utterances"
    least = count(space.smallest)
    if budget < least:
        raise UserError(
            f"the smallest subnet of the {space.name} space, {space.smallest}, has "
            f"{least:,} {unit}."
        )
    subnet = largest_within(space, budget, count)
    logger.info(
        f"Largest subnet of the {space.name} space with {what}<={limit}: {subnet} with "
        f"{parameters(subnet):,} parameters and {count_superb_macs(subnet) / 1e9:,.1f} G MACs."
    )
    return subnet


def _from_file(path: Path, stored: Dimensions) -> Subnet:
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"the file is not JSON: {error}.") from None
    if isinstance(found, dict) and is_damaged(found):
        raise UserError(
            "the file was damaged or changed since it was written; make it again, or, if it was "
            f"meant, take {OBJECT_SEAL} out of it."
        )
    if isinstance(found, dict):
        found.pop(OBJECT_SEAL, None)
    return _from_dict(found, stored)


def _inline(text: str, space: SearchSpace) -> Subnet:
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in _INLINE_KEYS:
            raise unknown("field", key, _INLINE_KEYS)
        if key in fields:
            raise UserError(f"{key} stands there twice.")
        fields[key] = value
    missing = [key for key in _INLINE_KEYS if key not in fields]
    if missing:
        raise UserError(f"{' and '.join(missing)} not given; write {_INLINE}.")
    embed_dim, depth = (_number(key, fields[key], int) for key in ("embed", "depth"))
    space.check_size(embed_dim, depth)
    heads = _per_layer("heads", fields["heads"], depth, int)
    ratios = _per_layer("ffn", fields["ffn"], depth, float)
    for i, ratio in enumerate(ratios):
        space.check_ratio(f"ffn[{i}]", ratio)
    widths = tuple(ffn_dim(embed_dim, ratio) for ratio in ratios)
    return Subnet(embed_dim, heads, widths, space.stored)


def _per_layer(
    key: str, text: str, depth: int, read: Callable[[str], Number]
) -> tuple[Number, ...]:
    values = [_number(key, word, read) for word in text.split("-")]
    if len(values) not in (1, depth):
        raise UserError(
            f"{key} has {len(values)} values for {depth} layers; give one for all of them or one "
            "for each."
        )
    return tuple(values) if len(values) == depth else (values[0],) * depth


def _number(key: str, word: str, read: Callable[[str], Number]) -> Number:
    try:
        return read(word)
    except ValueError:
        kind = "whole number" if read is int else "number"
        raise UserError(f"{key} has {word!r}, which is no {kind}.") from None


def _whole(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{field} is {quoted(value)}; expected a whole number.")
    return value


def _entries(field: str, values: Any, depth: int) -> list[Any]:
    if not isinstance(values, list):
        raise UserError(f"{field} is {quoted(values)}; expected a list with one entry a layer.")
    if len(values) != depth:
        raise UserError(f"{field} has {len(values)} entries; layer_num is {depth}.")
    return values


def _same(field: str, value: Any, expected: Any, meaning: str) -> None:
    if value != expected:
        raise UserError(f"{field} is {quoted(value)}; expected {expected!r}, {meaning}.")
