"""By how much one encoder is read better than another: from kept tallies, on the same resamples."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from auscult.errors import UserError
from auscult.progress import logger
from auscult.record import provenance
from auscult.score import Tally, difference_of, value_of

from .company import company
from .item import Item, Outcome
from .layer import KIND

if TYPE_CHECKING:
    from auscult.record import Artifact, Provenance, Record

METRIC = "accuracy"  # that differences are of


def compare(outcomes: Mapping[Item, Outcome], device: str) -> "list[Artifact]":
    """Return by how much each encoder is read better than its random twins and than log-mel.

    Each at the layer that dev prefers, on the same resamples of speakers.

    Args:
        outcomes: Of any items.
        device: Of this study, for the provenance.
    """
    measured = [item for item in outcomes if item.kind == KIND]
    addresses = list(dict.fromkeys(item.upstream["address"] for item in measured))
    by_place = {(item.upstream["address"], item.what["task"]): item for item in measured}
    found = []
    for item in measured:
        for over in company(item.upstream["address"], addresses):
            if other := by_place.get((over, item.what["task"])):
                pair = outcomes[item], outcomes[other]
                made = made_of(*pair, item.command_with(over), device)
                found += [replace(x, provenance=made) for x in differences(*pair)]
    return found


def made_of(ours: Outcome, theirs: Outcome, command: str, device: str) -> "Provenance":
    """Return the provenance of what two outcomes come to: the libraries are those of both."""
    made = provenance(command, device)
    used = [x.records[0].provenance.libraries for x in (theirs, ours)]
    return replace(made, libraries={**made.libraries, **used[0], **used[1]})


def differences(ours: Outcome, theirs: Outcome) -> "list[Artifact]":
    """Return the difference of two encoders on one task, one for each probe that both have."""
    found = []
    for probe in probes_of(ours):
        if probe in probes_of(theirs):
            try:
                found.append(difference(ours, theirs, probe))
            except UserError as error:
                names = f"{ours.records[0].upstream} minus {theirs.records[0].upstream}"
                logger.info(f"{names}: {error}")
    return found


def probes_of(outcome: Outcome) -> list[str]:
    """Return the probes of whose answers there are counts."""
    return list(dict.fromkeys(key.probe for key in outcome.tallies))


def difference(ours: Outcome, theirs: Outcome, probe: str) -> "Artifact":
    """Return the difference of two encoders on one task under one probe.

    Raises:
        UserError: They did not hear the same utterances.
    """
    from auscult.results.difference import build_difference

    (layer, mine), (over_layer, others) = (_chosen(x, probe) for x in (ours, theirs))
    score = difference_of(METRIC, mine, others)
    sides = [_test_records(outcome, probe) for outcome in (ours, theirs)]
    if not all(sides):
        raise UserError(f"{ours.records[0].task} has no {METRIC} among its metrics to compare.")
    interval = (float(score.low or 0.0), float(score.high or 0.0))
    return build_difference(sides[0], sides[1], (layer, over_layer), score.value, interval)


def _chosen(outcome: Outcome, probe: str) -> tuple[int, list[Tally]]:
    """Return the layer that is best on dev in the mean over seeds, and its tallies on test."""
    dev: dict[int, list[float]] = {}
    test: dict[int, list[Tally]] = {}
    for key, tally in sorted(outcome.tallies.items(), key=lambda pair: pair[0]):
        if key.probe == probe and key.split == "dev":
            dev.setdefault(key.layer, []).append(value_of(METRIC, tally))
        elif key.probe == probe:
            test.setdefault(key.layer, []).append(tally)
    if not dev.keys() or dev.keys() != test.keys():
        raise UserError(f"{probe} has no counts of the same layers on dev and test.")
    best = max(sorted(dev), key=lambda layer: float(np.mean(dev[layer])))
    return best, test[best]


def _test_records(outcome: Outcome, probe: str) -> "list[Record]":
    return [
        record
        for record in outcome.records
        if (record.probe, record.metric) == (probe, METRIC) and record.split == "test"
    ]
