"""Objects in the place of addresses: they go under a name, and travel on the bench."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError

from .bench import Bench

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.upstream import Upstream


def named(
    bench: Bench, upstreams: "str | Upstream | Iterable[str | Upstream]", corpus: "str | Corpus"
) -> tuple[list[str], str, Bench]:
    """Return addresses of encoders and corpus, and a bench that knows which objects they are.

    Args:
        bench: Where work is done.
        upstreams: Addresses or encoders, one or several.
        corpus: An address or a corpus.

    Raises:
        UserError: Two encoders go under one name, or a wrapped module under that of a family.
    """
    from auscult.upstream import Upstream

    live: dict[str, Any] = {}
    several = [upstreams] if isinstance(upstreams, str | Upstream) else list(upstreams)
    addresses = {one for one in several if isinstance(one, str)}
    names = [one if isinstance(one, str) else _name(one, addresses, live) for one in several]
    address = corpus if isinstance(corpus, str) else corpus.spec
    if not isinstance(corpus, str):
        live[address] = corpus
    return names, address, replace(bench, live=live)


def _name(encoder: "Upstream", addresses: set[str], live: dict[str, Any]) -> str:
    from auscult.upstreams import TABLE

    name = encoder.spec.name
    if name in addresses or live.get(name, encoder) is not encoder:
        raise UserError(f"Two encoders go under the name {name!r}; wrap(..., name=) tells apart.")
    if encoder.spec.family == "module" and not encoder.spec.origin and TABLE.knows(name):
        raise UserError(
            f"{name!r} is an encoder of ours or of a package; give yours another name: "
            "wrap(..., name=)."
        )
    live[name] = encoder
    return name
