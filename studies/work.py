"""The kinds of items, and what carries each of them out."""

import importlib
from collections.abc import Callable

from .desk import Desk
from .item import Failure, Item, Outcome

Work = Callable[[Item, Desk], Outcome]
WORK = {  # kind of item -> module:function
    "encode": "layer:encode",
    "probe": "layer:measure",
    "attention": "divergence:measure",
    "head": "task:measure",
    "subnet": "subnet:measure",
    "extract": "extraction:write",
}


def carry_out(item: Item, desk: Desk) -> Outcome | Failure:
    """Carry one item out; what goes wrong is a failure, for the others go on.

    Not among processes that torchrun started, where the others would wait for this one.
    """
    module, _, function = WORK[item.kind].partition(":")
    work: Work = getattr(importlib.import_module(f".{module}", __package__), function)
    try:
        return work(item, desk)
    except Exception as error:
        if desk.bench.processes.connected:
            raise
        return Failure.of(error, item.title, item.upstream["address"], item.command)
