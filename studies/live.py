"""Objects in the place of addresses: they go under a name, and travel on the bench."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

import auscult
from auscult.dataset import Corpus
from auscult.errors import UserError
from auscult.upstream import Upstream
from auscult.wrapped import Wrapped, wrap

from .bench import Bench

Encoder = str | nn.Module  # an address, an Upstream, or a module that is wrapped as it is
Speech = Any  # an address, a Corpus, a pandas frame, or lhotse cuts by split


def named(
    bench: Bench,
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    split: str | None = None,
) -> tuple[list[str], str, Bench]:
    """Return addresses of encoders and corpus, and a bench that knows which objects they are.

    Args:
        bench: Where work is done.
        upstreams: Addresses or encoders, one or several; a module is wrapped as it is.
        corpus: An address, a corpus, a data frame, or cuts by split.
        split: Split column of a data frame.

    Raises:
        UserError: Two encoders go under one name, or a wrapped module under that of a family.
    """
    names, bench = named_encoders(bench, upstreams)
    if not isinstance(corpus, str | Corpus):
        corpus = auscult.corpus(corpus, split=split, skip_bad=bench.skip_bad)
    if isinstance(corpus, str):
        return names, corpus, bench
    address = corpus.spec
    if address in names:
        raise UserError(
            f"An encoder and the corpus both go under the name {address!r}; "
            "auscult.corpus(..., name=) or wrap(..., name=) tells them apart."
        )
    return names, address, replace(bench, live={**bench.live, address: corpus})


def named_encoders(bench: Bench, upstreams: Encoder | Iterable[Encoder]) -> tuple[list[str], Bench]:
    """Return addresses of encoders, and a bench that knows which objects they are.

    Args:
        bench: Where work is done.
        upstreams: Addresses or encoders, one or several; a module is wrapped as it is.

    Raises:
        UserError: Two encoders go under one name, or a wrapped module under that of a family.
    """
    live: dict[str, Any] = {}
    several = list(upstreams) if isinstance(upstreams, Iterable) else [upstreams]
    several = [upstreams] if isinstance(upstreams, str | nn.Module) else several
    for one in several:
        if not isinstance(one, str | nn.Module):
            raise UserError(
                f"{one!r} is no encoder; expected an address such as hf:FOLDER, or a module "
                "(an instance, not its class)."
            )
    encoders = [one if isinstance(one, str | Upstream) else wrap(one) for one in several]
    addresses = {one for one in encoders if isinstance(one, str)}
    names = [one if isinstance(one, str) else _name(one, addresses, live) for one in encoders]
    return names, replace(bench, live=live)


def _name(encoder: "Upstream", addresses: set[str], live: dict[str, Any]) -> str:
    from auscult.upstreams import TABLE

    if isinstance(encoder, Wrapped):  # it may have been trained since
        encoder.spec = replace(encoder.spec, sha256=encoder.fingerprint())
    else:
        encoder.refresh()
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
