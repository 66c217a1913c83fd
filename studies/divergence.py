"""The attention study: how far the heads of encoders diverge, as maps and as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auscult import audio, kept
from auscult.analysis import BASES, check_attention
from auscult.analysis import measure as measure_maps
from auscult.contracts import TaskSpec
from auscult.dataset import utterance_label
from auscult.errors import UserError, unknown
from auscult.origin import made_by
from auscult.record import Artifact, Record, provenance, with_origins
from auscult.score import Tally, record_of, score_of
from auscult.whole_file import whole_file

from .call import unless_default
from .desk import Desk
from .finding import Findings
from .item import Item, Outcome, TallyKey
from .plan import Plan

if TYPE_CHECKING:
    from auscult.analysis import DivergenceMaps
    from auscult.contracts import UpstreamSpec
    from auscult.upstream import Upstream

KIND, PROBE = "attention", "jsd"
TASK = TaskSpec(
    name="attention_divergence",
    version=1,
    output="utterance",
    metrics=("jsd_same_head", "jsd_all_pairs", "jsd_next_layer"),
)
_ARRAYS = ("all_pairs", "block_of", "head_of", "same_head", "mean")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Maps(Findings):
    """Maps of attention, one for each encoder."""

    @property
    def matrices(self) -> dict[str, NDArray[np.float64]]:
        """Return the divergence of every head from every other, (head, head), by encoder."""
        return {found.upstream: found.arrays["all_pairs"] for found in self.artifacts}

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Return the one there is of ``matrices``.

        Raises:
            UserError: There are several.
        """
        return np.asarray(self._only.arrays["all_pairs"])

    @property
    def _only(self) -> Artifact:
        if len(self.artifacts) != 1:
            names = ", ".join(self.matrices) or "no encoder"
            raise UserError(f"These are maps of {names}; matrices[NAME] gives one of them.")
        return self.artifacts[0]

    def plot(self, path: str | Path, metric: str = "all_pairs") -> Path:
        """Draw the map of one encoder: ``all_pairs`` of heads, or the ``same_head`` of layers."""
        from auscult.results.figure.drawing import all_pairs_map, divergence_maps

        drawers = {"all_pairs": all_pairs_map, "same_head": divergence_maps}
        if metric not in drawers:
            raise unknown("map", metric, drawers)
        drawers[metric](self._only, Path(path))
        return Path(path)

    def _repr_html_(self) -> str:
        """Show in a notebook what the maps come to."""
        import pandas as pd

        rows = summary(self.records)
        table: str = pd.DataFrame(rows, columns=list(COLUMNS)).to_html(index=False, border=0)
        return table


def plan_attention(
    desk: Desk,
    upstreams: Sequence[str],
    corpus: str,
    *,
    split_name: str = "test",
    limit: int | None = None,
    base: str = "2",
    split: str | None = None,
) -> Plan:
    """Return one item for each encoder.

    Args:
        desk: Gives encoders and the corpus.
        upstreams: Addresses.
        corpus: Address.
        split_name: The split to listen to.
        limit: Only this many utterances, spread evenly over the split.
        base: ``2`` for bits, ``e`` for nats.
        split: Split column.

    Raises:
        UserError: An encoder has no attention, or something else cannot be measured.
    """
    if base not in BASES:
        raise unknown("base", base, BASES)
    specs = {address: _looked_at(desk.encoder(address)) for address in dict.fromkeys(upstreams)}
    data = desk.corpus(corpus, split, limit)
    data.split(split_name)
    about = {
        "address": corpus,
        "split_column": data.split_column,
        "limit": limit,
        "sha256": {split_name: data.sha256[split_name]},
    }
    options = unless_default(
        split_name=(split_name, "test"), limit=(limit, None), base=(base, "2"), split=(split, None)
    )
    items = [
        Item(
            kind=KIND,
            upstream={"address": address, "sha256": spec.sha256},
            corpus=about,
            what={"split_name": split_name, "base": base, "split": split},
            how={**desk.bench.how, "code": maker},
            call=desk.bench.call("attention", upstream=address, corpus=corpus, **options),
        )
        for address, (spec, maker) in specs.items()
    ]
    return Plan(items=tuple(items), desk=desk)


def _looked_at(encoder: "Upstream") -> "tuple[UpstreamSpec, str]":
    """Return what an encoder is and by what code; the next may take its place in memory."""
    check_attention(encoder)
    return encoder.spec, made_by(__name__, *encoder.modules())


def measure(item: Item, desk: Desk) -> Outcome:
    """Listen to all utterances of an item, going on where a killed run was."""
    encoder, corpus = desk.encoder_of(item), desk.corpus_of(item)
    desk.expect_code(item, made_by(__name__, *encoder.modules()))
    split, base = item.what["split_name"], item.what["base"]
    cuts = list(corpus.split(split))
    made = provenance(item.command, desk.bench.device)
    made = with_origins(made, encoder.spec.origin, corpus.origin)
    maps = measure_maps(
        encoder,
        [(cut.id, partial(audio.read_samples, cut)) for cut in cuts],
        base=base,
        skip_bad=desk.bench.skip_bad,
        file=_sum_file(encoder, item, desk, [cut.id for cut in cuts]),
        provenance=made,
    )
    made = maps.provenance or made
    config = {"base": base, "limit": item.corpus["limit"], "split_column": corpus.split_column}
    speaker_of = {cut.id: utterance_label(cut, "speaker") for cut in cuts}
    make = partial(
        record_of,
        encoder=encoder.spec,
        corpus=corpus,
        split=split,
        task=TASK,
        probe=PROBE,
        seed=0,
        config=config,
        provenance=made,
        num_skipped=len(corpus.skipped) + len(maps.skipped),
        selected_on="",
        unit=maps.unit,
    )
    tallies, records = {}, []
    for metric, layer, values in _values(maps):
        tally = Tally.of_ratio(
            values,
            np.ones(len(values)),
            maps.utterances,
            [speaker_of[name] for name in maps.utterances],
        )
        tallies[TallyKey(metric, PROBE, layer or 0, 0, split)] = tally
        records.append(make(score_of(metric, tally), layer=layer))
    artifact = Artifact(
        kind=TASK.name,
        upstream=encoder.spec.name,
        upstream_sha256=encoder.spec.sha256,
        corpus=corpus.spec,
        corpus_sha256=corpus.sha256[split],
        task=TASK.name,
        arrays={name: getattr(maps, name) for name in _ARRAYS},
        meta={"unit": maps.unit, "num_utterances": maps.num_utterances, "split": split, **config},
        provenance=made,
    )
    return Outcome(key=item.key, records=tuple(records), artifacts=(artifact,), tallies=tallies)


def draw(artifact: Artifact, out: Path) -> list[Path]:
    """Write the figures and the arrays of one encoder; return their paths."""
    from auscult.results import figure

    paths = [*figure.draw(artifact, out), out / f"{figure.stem_of(artifact)}.npz"]
    arrays: dict[str, Any] = {**artifact.arrays, "unit": artifact.meta["unit"]}
    with whole_file(paths[-1]) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return paths


def summary(records: Sequence[Record]) -> list[list[object]]:
    """Return one row for each encoder: what its numbers come to."""
    rows: list[list[object]] = []
    for upstream in dict.fromkeys(record.upstream for record in records):
        same, pairs, *steps = [record for record in records if record.upstream == upstream]
        closest = min(steps, key=lambda record: record.value)
        pair = f"{closest.layer} and next: {_with_interval(closest)}"
        scores = [_with_interval(same), _with_interval(pairs), pair]
        rows.append([same.upstream, *scores, same.num_items, same.num_speakers])
    return rows


COLUMNS = ("upstream", "same head", "all pairs", "closest layers", "utterances", "speakers")


def _values(maps: "DivergenceMaps") -> list[tuple[str, int | None, Any]]:
    """Return each measure with the block that it is about and its value in each utterance."""
    steps = enumerate(maps.utterance_next_layer.T, start=1)
    return [
        ("jsd_same_head", None, maps.utterance_same_head),
        ("jsd_all_pairs", None, maps.utterance_all_pairs),
        *(("jsd_next_layer", block, values) for block, values in steps),
    ]


def _sum_file(encoder: "Upstream", item: Item, desk: Desk, ids: Sequence[str]) -> Path:
    """Return where sums are kept, a place for all that they depend on."""
    split, base = item.what["split_name"], item.what["base"]
    identity = [TASK.name, TASK.version, encoder.spec.name, encoder.spec.sha256, base]
    identity += [item.corpus["sha256"][split], list(ids), desk.bench.how]
    maker = made_by("auscult.analysis.divergence", "auscult.audio", *encoder.modules())
    file = kept.place(desk.bench.out / ".attention", identity, maker, ".npz")
    kept.say_made_otherwise([file], encoder.spec.name, "sums of divergences")
    return file


def _with_interval(record: Record) -> str:
    return f"{record.value:.3g} [{record.low:.3g}, {record.high:.3g}]"
