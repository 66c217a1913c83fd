"""What other libraries may do with a stranger's checkpoint: read it, and compute sizes from it.

What they build of it is bounded by its size. Two calls in their code can run a file's:
``torch.load``, which follows its pickle, and ``eval``, which s3prl's encoders apply to strings such
as ``[(512,10,5)] + [(512,3,2)] * 4``.
"""

import ast
import contextlib
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError
from auscult.tree import find

MAX_ITEMS = 1000  # of a list that is computed
MAX_LETTERS = 10_000  # of an expression
MAX_BUILT = 8  # bytes of tensors for one of the file, above
MIN_BUILT = 1 << 28
MAX_TENSORS = 20_000  # that are made while an encoder is built

_KALDI = re.compile(r"torchaudio\.compliance\.kaldi\.(fbank|mfcc|spectrogram)")
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def guarded_loading() -> Iterator[None]:
    """Let ``torch.load`` in this thread run no code: :func:`read_checkpoint` takes its place.

    Calls from other threads and those with ``weights_only=True`` are torch's own. Everything is
    read to the CPU, whatever ``map_location`` says.
    """
    builder = threading.get_ident()
    with _one_at_a_time:
        load = torch.load

        def guarded(file: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() != builder or options.get("weights_only"):
                return load(file, *args, **options)
            if not isinstance(file, str | Path):
                raise UserError(
                    f"A checkpoint is read from a {type(file).__name__}, which can run its code; "
                    "only files are read without."
                )
            return read_checkpoint(Path(file))

        torch.load = guarded  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.load = load


class BoundedBuilding(TorchDispatchMode):
    """Refuses tensors that are made beyond what goes with a file, before they are.

    Args:
        path: The file that says how large what is built is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path = path
        files = find(path, "*") if path.is_dir() else [path]
        self.room = MAX_BUILT * sum(x.stat().st_size for x in files if x.is_file()) + MIN_BUILT
        self.tensors = MAX_TENSORS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if "device" in kwargs and not any(isinstance(arg, torch.Tensor) for arg in args):
            outline = func(*args, **{**kwargs, "device": "meta", "pin_memory": None})
            self.room -= outline.numel() * outline.element_size()
            self.tensors -= 1
            if self.room < 0 or self.tensors < 0:
                raise UserError(
                    f"{self.path} describes an encoder that is far larger than what the file holds."
                )
        return func(*args, **kwargs)


def evaluate(text: str) -> Any:
    """Stand in for ``eval`` where a library may apply it to text of a checkpoint.

    Knows numbers, lists and tuples of them, sums and small multiples; the caller's ``self`` and
    its parts, which are how s3prl names the modules of an encoder; and torchaudio's Kaldi features.

    Raises:
        UserError: Anything else; it is not run.
    """
    try:
        if found := _KALDI.fullmatch(text):
            import torchaudio

            return getattr(torchaudio.compliance.kaldi, found[1])
        if len(text) > MAX_LETTERS:
            raise ValueError("too long")
        return _evaluate(ast.parse(text.strip(), mode="eval").body, sys._getframe(1).f_locals)
    except (SyntaxError, TypeError, ValueError, LookupError, RecursionError, MemoryError) as error:
        shown = "".join(letter if letter.isprintable() else "?" for letter in str(text)[:80])
        raise UserError(
            f"The checkpoint holds the expression '{shown}', which is not run; expected lists of "
            "numbers, such as [(512,10,5)] + [(512,3,2)] * 4."
        ) from error


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() | None as value):
            return value
        case ast.List(elts=items):
            return [_evaluate(item, names) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_evaluate(item, names) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left, names) + _evaluate(right, names)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _multiply(_evaluate(left, names), _evaluate(right, names))
        case ast.Name(id="self"):
            return names["self"]
        case ast.Attribute(value=value, attr=name) if not name.startswith("_"):
            return _part(_evaluate(value, names), name)
        case ast.Subscript(value=value, slice=ast.Constant(value=int() as index)):
            return _part(_evaluate(value, names), str(index))
    raise ValueError(f"a {type(node).__name__}")


def _multiply(one: Any, other: Any) -> Any:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one * other
    if isinstance(one, list | tuple) and type(other) is int and len(one) * other <= MAX_ITEMS:
        return one * other
    raise ValueError("a product of other things")


def _part(module: Any, name: str) -> nn.Module:
    """Return the submodule ``name``; nothing else of a module can be reached."""
    if not isinstance(module, nn.Module) or name not in module._modules:
        raise ValueError(f"no submodule {name}")
    return module.get_submodule(name)
