"""Objects in the place of addresses: they go under a name, and travel on the bench."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    """
    from auscult.upstream import Upstream

    live: dict[str, Any] = {}
    several = [upstreams] if isinstance(upstreams, str | Upstream) else list(upstreams)
    names = [_name(encoder, live) for encoder in several]
    address = corpus if isinstance(corpus, str) else corpus.spec
    if not isinstance(corpus, str):
        live[address] = corpus
    return names, address, replace(bench, live=live)


def _name(encoder: "str | Upstream", live: dict[str, Any]) -> str:
    if isinstance(encoder, str):
        return encoder
    live[encoder.spec.name] = encoder
    return encoder.spec.name
