"""The company that every accuracy keeps: log-mel, and the random-weight twin of its encoder."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from auscult.address import Address, parse_address
from auscult.errors import UserError
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
        elif not address.random and _has_weights(address):
            wanted.append(str(replace(address, random=True)))
    return list(dict.fromkeys([*wanted, "log_mel"]))


def company(address: str, others: Iterable[str]) -> list[str]:
    """Return an encoder's random twins, of whichever seed, and then log-mel, among ``others``."""
    names = {other: _address(other) for other in dict.fromkeys(others)}
    mine, log_mel = _address(address), Address("log_mel")
    twins = [
        other
        for other, found in names.items()
        if found.random and replace(found, random=False, seed=None) == mine
    ]
    return twins + [other for other, found in names.items() if found == log_mel != mine]


def _address(text: str) -> Address:
    """Return an address; an object's name stands for itself."""
    try:
        return parse_address(text)
    except UserError:
        return Address(text)


def _has_weights(address: Address) -> bool:
    """Say whether there are weights to draw anew; somebody's own encoder is built for that."""
    from auscult.upstreams import FAMILIES, TABLE, load_upstream

    if TABLE.is_foreign(address.family):
        return load_upstream(str(address)).spec.num_parameters > 0
    return bool(address.checkpoint) or address.family in FAMILIES and FAMILIES[address.family].ships
