"""The company that every accuracy keeps: log-mel, and the random-weight twin of its encoder."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

Baselines = Annotated[
    bool,
    typer.Option("--baselines/--no-baselines", help="Add log_mel and each encoder's random twin."),
]


def with_baselines(specs: Sequence[str]) -> list[str]:
    """Add log-mel, and the random twin of every encoder whose weights are loaded."""
    from auscult.address import parse_address
    from auscult.progress import logger

    addresses = [parse_address(spec) for spec in specs]
    wanted = [str(address) for address in addresses]
    for address in addresses:
        if address.family == "s3prl":
            logger.info(f"{address} has no random twin: s3prl builds it from its checkpoint alone.")
        elif not address.random and (address.checkpoint or _ships(address.family)):
            wanted.append(str(replace(address, random=True)))
    return list(dict.fromkeys([*wanted, "log_mel"]))


def _ships(family: str) -> bool:
    from auscult.upstreams import FAMILIES

    return family in FAMILIES and FAMILIES[family].ships
