"""`auscult subnet search`: which subnets of a supernet are worth what they cost."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auscult.cli.output import (
    MOST,
    MOST_SEED,
    AllowSharedSpeakers,
    CorpusSpec,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    StoreUrl,
    command_line,
)
from auscult.device import choose_device
from auscult.errors import UserError, unknown

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.probing import ProbeTask
    from auscult.record import Provenance, Record
    from auscult.score import Score
    from auscult.studies.criterion import Criterion, ScoreLog, Speech
    from auscult.upstreams.lighthubert.latency import Latency
    from auscult.upstreams.lighthubert.search import Candidate, LayerCost
    from auscult.upstreams.lighthubert.sharing import Sharing
    from auscult.upstreams.lighthubert.space import Subnet

Strategy = Literal["evolution", "random"]
_CHECKED_DRAWS = 1  # subnets drawn to check the table of latencies with, beside the named ones


@dataclass(slots=True)
class _Search:
    """One search and what it found."""

    sharing: "Sharing"
    criterion: "Criterion"
    costs: "Mapping[str, LayerCost]"
    limits: Mapping[str, float]
    cost: str
    log: "ScoreLog"
    candidates: "list[Candidate]" = field(default_factory=list)  # all within the limits

    def go(self, strategy: Strategy, evaluations: int, seed: int) -> None:
        """Look at subnets; scores that are there already are not measured again."""
        from auscult.progress import logger, progress
        from auscult.upstreams.lighthubert.search import search

        if len(self.log):
            logger.info(f"{len(self.log)} scores are there already.")
        sign = -1 if self.criterion.lower_is_better else 1
        highest = float("-inf")
        with progress("Searching", evaluations, "subnets") as advance:

            def evaluate(subnet: "Subnet") -> float:
                nonlocal highest
                value = sign * self.score(subnet).value
                highest = max(highest, value)
                advance(1, f"best {sign * highest:.4f}")
                return value

            self.candidates = search(
                self.sharing.space,
                self.costs,
                self.limits,
                evaluate,
                evaluations=evaluations,
                seed=seed,
                strategy=strategy,
                first=list(self.named.values()),
            )

    @property
    def named(self) -> "dict[str, Subnet]":
        """The subnets that a search is compared with."""
        space = self.sharing.space
        found = {"smallest": space.smallest, "default": self.sharing.default}
        return found | {"largest": space.largest}

    @property
    def front(self) -> "list[Candidate]":
        """Those that no other one beats, cheapest first."""
        from auscult.upstreams.lighthubert.search import front

        return front(self.candidates, self.cost)

    @property
    def best(self) -> "Candidate":
        """The best within the limits."""
        from auscult.upstreams.lighthubert.search import best

        return best(self.candidates, self.cost)

    def score(self, subnet: "Subnet", split: str = "dev") -> "Score":
        """Return a score from the log, or measure it."""
        return self.log.score(self.criterion, subnet, split)


def search(
    upstream: Annotated[
        str,
        typer.Argument(
            metavar="SUPERNET",
            help="lighthubert:FILE or FOLDER, tiny_lighthubert, or random(lighthubert_small).",
            show_default=False,
        ),
    ],
    corpus: CorpusSpec,
    objective: Annotated[
        str, typer.Option(help="probe:TASK, such as probe:phone39; or distill.", show_default=False)
    ],
    budget: Annotated[
        str, typer.Option(help="Upper limits, such as params<=40M,macs<=800G,rtf<=0.05.")
    ] = "",
    cost: Annotated[
        str, typer.Option(help="Cost of the front: params, macs or rtf. The budget's first.")
    ] = "",
    strategy: Annotated[Strategy, typer.Option(help="How subnets are made.")] = "evolution",
    evaluations: Annotated[
        int,
        typer.Option("-n", "--evaluations", help="How many subnets to look at.", min=1, max=10**6),
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the search.", min=0, max=MOST_SEED)] = 0,
    layer: Annotated[
        int | None, typer.Option(help="Hidden state that is probed; the last of each.", min=0)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Utterances of each split, at equal steps.", min=1, max=MOST)
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="For distill: the teacher, where the supernet does not name it.")
    ] = "",
    top_layers: Annotated[
        int | None,
        typer.Option(help="For distill: teacher blocks to average.", min=1, max=MOST),
    ] = None,
    split: SplitColumn = None,
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the front.")] = Path("subnets"),
    device: Device = "auto",
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search the subnets of a supernet for those that are worth their cost.

    Subnets are scored on dev with the supernet's own weights, none is trained. Those of the front,
    which no other one beats at its cost, are then scored on test. Every subnet looked at keeps the
    budget; real-time factors are sums from a table measured on this machine. Run the same command
    again to go on after a kill: the outcome is the same. OUT receives front.json, front.png,
    best.json (a subnet file), results.sqlite, scores.jsonl and latency.json.

    Examples:
      auscult subnet search "random(lighthubert_small)" -c demo --objective probe:phone39 \
--budget "params<=20M" -n 20 --limit 10 --out found
      auscult subnet search lighthubert:M -c tsv:data/timit --objective distill --out found
      auscult subnet export lighthubert:M@found/best.json --out best
    """
    import auscult
    from auscult.record import fingerprint, provenance
    from auscult.studies.bench import Bench
    from auscult.studies.criterion import DistillationCriterion, ProbeCriterion, ScoreLog
    from auscult.upstreams.lighthubert.search import (
        COSTS,
        check_limits,
        parse_limits,
    )
    from auscult.upstreams.lighthubert.sharing import share
    from auscult.watch import same_audio

    output = Output(json=json, quiet=quiet)
    where = choose_device(device)
    limits = parse_limits(budget)
    axis = cost or next(iter(limits), "params")
    if axis not in COSTS:
        raise unknown("cost", axis, COSTS)
    sharing = share(upstream, device=where)
    costs = _counted(sharing)
    check_limits(sharing.space, costs, {k: limit for k, limit in limits.items() if k in costs})
    data = auscult.corpus(corpus, split=split, skip_bad=skip_bad)
    speech = _speech(sharing, data, limit, skip_bad, where)
    criterion: Criterion
    if objective == "distill":
        criterion = DistillationCriterion(sharing, speech, teacher, top_layers)
    else:
        task = _task(objective, speech, allow_shared_speakers, skip_bad)
        criterion = ProbeCriterion(sharing, speech, task, _layer(layer, sharing))
    bench = Bench(out=out, store=store)
    bench.prepare()
    latency = _latency(output, sharing, out / "latency.json", where)
    costs |= {"rtf": latency.cost}
    check_limits(sharing.space, costs, limits)
    run = provenance(command_line(), where)
    log = ScoreLog(out / "scores.jsonl", fingerprint(criterion.identity), criterion.code)
    found = _Search(sharing, criterion, costs, limits, axis, log)
    with same_audio(speech.all_cuts, log.withdraw):
        found.go(strategy, evaluations, seed)
        records = _test(found, run)
    bench.save(records, [])
    about = {"upstream": upstream, "objective": objective, "strategy": strategy, "seed": seed}
    result = about | _result(found, latency) | {"provenance": asdict(run)}
    _write(found, result, out)
    _show(output, found, result, out)
    output.finish(records, **result)


def _counted(sharing: "Sharing") -> "dict[str, LayerCost]":
    """Return the costs that need no machine."""
    from auscult.upstreams.lighthubert.cost import count_parameters, count_superb_macs
    from auscult.upstreams.lighthubert.search import tabulate

    parameters = partial(count_parameters, extractor_mode=sharing.supernet.mode)
    counts: dict[str, Callable[[Subnet], float]] = {
        "params": parameters,
        "macs": count_superb_macs,
    }
    return {name: tabulate(sharing.space, count) for name, count in counts.items()}


def _latency(output: Output, sharing: "Sharing", path: Path, device: str) -> "Latency":
    """Read the table of this machine, or measure it; say how it does for whole subnets."""
    from auscult.upstreams.lighthubert.latency import measure_latency, place_of, read_latency

    space, mode = sharing.space, sharing.supernet.mode
    place = place_of(space, mode, device)
    found = read_latency(path, place)
    if found is None:
        subnets = [space.smallest, sharing.default, space.largest]
        subnets += [space.sample(seed) for seed in range(_CHECKED_DRAWS)]
        whole = [sharing.cut(subnet) for subnet in dict.fromkeys(subnets)]
        found = measure_latency(space, place, mode, whole)
        found.write(path)
    output.table(
        f"Real-time factors on {place.processor}: the table against whole subnets",
        ("table", "measured", "error", "subnet"),
        [
            (f"{one.predicted:.5f}", f"{one.measured:.5f}", f"{one.error:+.1%}", one.subnet)
            for one in found.checked
        ],
    )
    return found


def _speech(
    sharing: "Sharing", data: "Corpus", limit: int | None, skip_bad: bool, device: str
) -> "Speech":
    """Choose the utterances; those too short for a frame are left out or refused."""
    from auscult.dataset import SPLITS, spread
    from auscult.extraction import long_enough
    from auscult.studies.criterion import Speech

    encoder = sharing.encoder(sharing.space.smallest)
    kept = {
        name: long_enough(encoder, spread(list(data.split(name)), limit), skip_bad=skip_bad)
        for name in SPLITS
    }
    cuts = {name: found for name, (found, _) in kept.items()}
    skipped = {name: len(data.skipped) + len(short) for name, (_, short) in kept.items()}
    return Speech(data, cuts, skipped, limit, device)


def _task(objective: str, speech: "Speech", allow_shared: bool, skip_bad: bool) -> "ProbeTask":
    """Return the task that a probe reads.

    Raises:
        UserError: Not an objective, not one task, or labels that cannot be probed.
    """
    from auscult.dataset import check_speakers
    from auscult.probing import check_labels, resolve_tasks

    kind, _, name = objective.partition(":")
    if kind != "probe" or not name:
        raise unknown("objective", objective, ["distill", "probe:TASK"])
    task, *others = resolve_tasks(name, speech.all_cuts)
    if others:
        names = ", ".join(one.spec.name for one in (task, *others))
        raise UserError(f"--objective {objective} stands for several tasks; choose of {names}.")
    check_labels(task, speech.cuts, skip_unlabelled=skip_bad)
    if not task.about_speakers:
        check_speakers(speech.corpus, allow_shared)
    return task


def _layer(layer: int | None, sharing: "Sharing") -> int | None:
    """Return the layer to probe.

    Raises:
        UserError: Some subnets lack it.
    """
    least = min(sharing.space.depths)
    if layer is not None and layer > least:
        raise UserError(
            f"--layer {layer}: there are subnets of {least} layers, which have hidden states 0 to "
            f"{least} only; without --layer it is the last of each."
        )
    return layer


def _test(found: _Search, run: "Provenance") -> "list[Record]":
    """Score the front on test."""
    from auscult.progress import track

    records = []
    for candidate in track(found.front, "Scoring the front on test"):
        score = found.score(candidate.subnet, "test")
        encoder = found.sharing.cut(candidate.subnet).spec
        depth = candidate.subnet.depth
        records.append(found.criterion.record(score, encoder, depth, "test", run))
    return records


def _result(found: _Search, latency: "Latency") -> dict[str, Any]:
    """Return what a search found, as JSON values."""
    return {
        "space": found.sharing.space.name,
        "score": found.criterion.label,
        "lower_is_better": found.criterion.lower_is_better,
        "budget": dict(found.limits),
        "cost": found.cost,
        "evaluated": len(found.candidates),
        "front": [_entry(found, c.subnet, tested=True) for c in found.front],
        "best": _entry(found, found.best.subnet, tested=True),
        "named": {name: _entry(found, subnet) for name, subnet in found.named.items()},
        "latency": [asdict(one) | {"error": one.error} for one in latency.checked],
    }


def _entry(found: _Search, subnet: "Subnet", *, tested: bool = False) -> dict[str, Any]:
    """Return one subnet: what it is, what it costs, what it scores."""
    score = found.score(subnet)
    return {
        "text": str(subnet),
        "address": found.sharing.address_of(subnet),
        "subnet": subnet.to_dict(),
        **{name: cost(subnet) for name, cost in found.costs.items()},
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "test": _interval(found.score(subnet, "test")) if tested else None,
    }


def _interval(score: "Score") -> dict[str, float]:
    low, high = (score.value if end is None else end for end in (score.low, score.high))
    return {"value": score.value, "low": low, "high": high}


def _write(found: _Search, result: Mapping[str, Any], out: Path) -> None:
    """Write the front, its figure, and the best as a file that an address takes."""
    from auscult.kept import write_object
    from auscult.results.curve import short_names
    from auscult.results.pareto import Place, pareto_front

    def place(subnet: "Subnet") -> Place:
        return Place(found.costs[found.cost](subnet), **_interval(found.score(subnet)))

    for name, content in (("front", result), ("best", result["best"])):
        write_object(content, out / f"{name}.json")
    named = {"best within the budget" if found.limits else "best": place(found.best.subnet)}
    pareto_front(
        [place(candidate.subnet) for candidate in found.candidates],
        [place(candidate.subnet) for candidate in found.front],
        {name: place(subnet) for name, subnet in found.named.items()} | named,
        out / "front.png",
        cost=found.cost,
        score=found.criterion.label,
        limit=found.limits.get(found.cost),
        title=f"{short_names([result['upstream']])[result['upstream']]}: "
        f"{len(found.candidates)} subnets looked at, {result['strategy']}",
    )


def _show(output: Output, found: _Search, result: Mapping[str, Any], out: Path) -> None:
    output.table(
        f"Front: {found.criterion.label}, cheapest first, with 95 % intervals",
        ("", "parameters", "MACs (G)", "RTF", "dev", "test"),
        [
            (
                number,
                f"{entry['params']:,}",
                f"{entry['macs'] / 1e9:,.1f}",
                f"{entry['rtf']:.4f}",
                _shown(entry["score"], entry["low"], entry["high"]),
                _shown(**entry["test"]),
            )
            for number, entry in enumerate(result["front"], start=1)
        ],
    )
    for number, entry in enumerate(result["front"], start=1):
        output.print(f"{number:>3}  {entry['text']}")
    output.print(f"Front: {out / 'front.json'}, {out / 'front.png'}")
    output.print(f'Cut out: auscult subnet export "{result["best"]["address"]}" --out FOLDER')


def _shown(value: float, low: float, high: float) -> str:
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"
