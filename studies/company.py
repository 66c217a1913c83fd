"""The company that every accuracy keeps: log-mel, and the random-weight twin of its encoder."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from auscult.address import parse_address
from auscult.progress import logger


def with_baselines(specs: Sequence[str], live: Collection[str] = ()) -> list[str]:
    """Add log-mel, and the random twin of every encoder whose weights are loaded.

    Args:
        specs: Addresses.
        live: Those that are names of objects, which have no twin.
    """
    addresses = [parse_address(spec) for spec in specs if spec not in live]
    wanted = [spec if spec in live else str(parse_address(spec)) for spec in specs]
    for address in addresses:
        if address.family == "s3prl":
            logger.info(f"{address} has no random twin: s3prl builds it from its checkpoint alone.")
        elif not address.random and (address.checkpoint or _ships(address.family)):
            wanted.append(str(replace(address, random=True)))
    return list(dict.fromkeys([*wanted, "log_mel"]))


def _ships(family: str) -> bool:
    from auscult.upstreams import FAMILIES

    return family in FAMILIES and FAMILIES[family].ships
