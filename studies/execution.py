"""A plan carried out: what is there is read, the rest is done and kept at once."""

from dataclasses import replace

from auscult.errors import UserError
from auscult.progress import logger

from .executor import Executor, executor_of
from .item import Failure, Item, Outcome
from .ledger import Ledger
from .plan import Plan


def execute(
    plan: Plan, executor: "str | Executor" = "serial", *, strict: bool = True
) -> tuple[dict[Item, Outcome], list[Failure]]:
    """Carry out what is not there yet; return all outcomes and what failed.

    Numbers go to the store as soon as their item has ended.

    Args:
        plan: What is to be done.
        executor: Who does it.
        strict: Raise where nothing came to its end.

    Raises:
        UserError: Every item failed.
    """
    processes = plan.bench.processes
    if processes.leads:
        plan.bench.prepare()
    ledger = Ledger(plan.bench.out)
    outcomes = {} if processes.connected else _remembered(plan, ledger)
    failures = list(plan.failures)
    wanted = plan.to_do({item.key for item in outcomes})
    alone = strict and len(wanted) == 1
    with executor_of(executor).open(plan.desk) as carry_out_all:
        for item, ended in carry_out_all(wanted):
            if isinstance(ended, Failure):
                failures.append(ended)
                if not alone:
                    ended.say()
                continue
            outcomes[item] = ended
            if processes.leads and item.kept:
                ledger.write(item, ended)
            elif processes.leads and ended.records:  # a head: that it is there, not its numbers
                ledger.write(item, replace(ended, records=(), artifacts=(), notes={}))
            if processes.leads:
                plan.bench.save(ended.records, ended.artifacts)
    if processes.leads:
        plan.bench.summarise()
    if strict and failures and not any(x.records or x.files for x in outcomes.values()):
        if alone or len({failure.reason for failure in failures}) == 1:
            raise failures[0].error or UserError(failures[0].reason)
        raise UserError(
            f"None of {len(failures)} came to its end; each is said above, first: "
            f"{failures[0].reason}"
        )
    return {item: outcomes[item] for item in plan.items if item in outcomes}, failures


def _remembered(plan: Plan, ledger: Ledger) -> dict[Item, Outcome]:
    """Return the outcomes that are there; their numbers go to the store, which may be new."""
    kept = [item for item in plan.items if item.kept]
    found = {item: ledger.read(item) for item in kept}
    outcomes = {item: outcome for item, outcome in found.items() if outcome is not None}
    if outcomes:
        logger.info(f"{len(outcomes)} of {len(kept)} measurements are there already.")
    for outcome in outcomes.values():
        plan.bench.save(outcome.records, outcome.artifacts)
    return outcomes
