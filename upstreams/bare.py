"""Bare state dicts: what their tensors do not say is an option of the address, or as published."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auscult.address import Address
from auscult.errors import UserError, quoted
from auscult.progress import logger

PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}  # of all published models of a width
_STRIDES = {10: 5, 3: 2, 2: 2}  # of the convolutions of all published models, by kernel
_DISTANCE = 800  # of WavLM's positions, in all published models
_NORMS = {"pre": True, "post": False}
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True, slots=True)
class Choices:
    """What an address says of an encoder, in transformers' terms; nothing where it does not."""

    said: Mapping[str, Any]
    normalize: bool | None


def read_choices(address: Address) -> Choices:
    """Return what the options of an address say.

    Raises:
        UserError: A value that cannot be.
    """
    said: dict[str, Any] = {}
    normalize: bool | None = None
    for name, value in address.options:
        match name:
            case "heads" if value.isdecimal() and len(value) < 5:
                said["num_attention_heads"] = int(value)
            case "norm" if value in _NORMS:
                said["do_stable_layer_norm"] = _NORMS[value]
            case "normalize" if value in _FLAGS:
                normalize = _FLAGS[value]
            case "strides" if all(x.isdecimal() and len(x) < 5 for x in value.split("-")):
                said["conv_stride"] = [int(stride) for stride in value.split("-")]
            case _:
                raise UserError(
                    f"{address}: {name} is {quoted(value)}; expected such as heads=12, norm=pre or "
                    "norm=post (where a block's layer norms stand), normalize=yes or normalize=no "
                    "(of each utterance), or strides=5-2-2-2-2-2-2 (of the convolutions)."
                )
    return Choices(said, normalize)


def check_choices(
    path: Path, choices: Choices, said: Mapping[str, Any], normalize: bool | None
) -> None:
    """Refuse options that contradict what a file says itself.

    Raises:
        UserError: They do.
    """
    chosen = dict(choices.said)
    if choices.normalize is not None and normalize is not None:
        chosen["normalize"] = choices.normalize
    file = {**said, "normalize": normalize}
    for name, value in chosen.items():
        if name in file and file[name] != value:
            raise UserError(
                f"{path} says itself that {name} is {quoted(file[name])}, and the options of its "
                f"address that it is {quoted(value)}; leave the option out."
            )


def describe_bare(
    path: Path, address: Address, library: str, sizes: Mapping[str, Any], choices: Choices
) -> dict[str, Any]:
    """Return what is taken for an encoder beside what its tensors say, and say so.

    Args:
        path: The file, for messages.
        address: How the file is addressed.
        library: Whose names its tensors have.
        sizes: What the tensors say.
        choices: What the address says.

    Raises:
        UserError: Neither the tensors nor the address say it, and no published model does.
    """
    width, norm = sizes["hidden_size"], sizes["feat_extract_norm"]
    published = {
        "num_attention_heads": sizes.get("num_attention_heads") or PUBLISHED_HEADS.get(width),
        "do_stable_layer_norm": norm == "layer",
        "conv_stride": [_STRIDES.get(kernel) for kernel in sizes["conv_kernel"]],
    }
    said = published | dict(choices.said)
    if said["num_attention_heads"] is None:
        raise _lacking(
            path, address, library, f"how many heads share its width of {width}", "heads=N"
        )
    if None in said["conv_stride"]:
        kernel = sizes["conv_kernel"][said["conv_stride"].index(None)]
        what = f"the strides of its convolutions, one of which has a kernel of {kernel}"
        raise _lacking(path, address, library, what, "strides=5-2-2-2-2-2-2")
    assumed = {
        "heads": f"{said['num_attention_heads']} heads for a width of {width}",
        "norm": f"{'pre' if said['do_stable_layer_norm'] else 'post'}-norm blocks, as goes with "
        f"its {norm}-norm extractor",
        "strides": f"strides of {'-'.join(map(str, said['conv_stride']))}",
    }
    given = {name for name, _ in address.options}
    if "num_attention_heads" in sizes:
        given.add("heads")
        said["max_bucket_distance"] = _DISTANCE
        assumed["distance"] = f"positions up to {_DISTANCE} frames apart"
    taken = [what for name, what in assumed.items() if name not in given]
    if taken:
        logger.info(
            f"{path} is a state dict of {library}, which says no more than its tensors: taken are "
            f"{', '.join(taken)} and gelu, as in all published models; where it is otherwise, "
            f"write options behind it, such as {_with(address, 'heads=8,norm=pre')}."
        )
    return said


def _lacking(path: Path, address: Address, library: str, what: str, option: str) -> UserError:
    return UserError(
        f"{path} is a state dict of {library}, which does not say {what}: write it behind the "
        f"file, {_with(address, option)}."
    )


def _with(address: Address, options: str) -> str:
    return f"{replace(address, options=(), random=False)}?{options}"
