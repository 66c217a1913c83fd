"""The search study: which subnets of a supernet are worth what they cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError, unknown
from auscult.kept import write_object
from auscult.progress import logger, progress
from auscult.record import fingerprint
from auscult.score import Score
from auscult.upstreams.lighthubert.cost import count_parameters, count_superb_macs
from auscult.upstreams.lighthubert.latency import (
    Latency,
    measure_latency,
    place_of,
    read_latency,
)
from auscult.upstreams.lighthubert.search import (
    COSTS,
    Candidate,
    LayerCost,
    Strategy,
    best,
    check_limits,
    front,
    parse_limits,
    tabulate,
)
from auscult.upstreams.lighthubert.search import (
    search as candidates_of,
)
from auscult.upstreams.lighthubert.sharing import Sharing
from auscult.upstreams.lighthubert.space import Subnet
from auscult.watch import same_audio

from .bench import Bench
from .call import unless_default
from .criterion import Criterion
from .desk import Desk
from .executor import Executor, Map, executor_of
from .finding import Findings
from .item import Failure, Item, Outcome
from .live import named
from .score_log import ScoreLog
from .subnet import KIND, Wanted

if TYPE_CHECKING:
    from auscult.dataset import Corpus

_CHECKED_DRAWS = 1  # subnets drawn to check the table of latencies with, beside the named ones


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Found(Findings):
    """What a search found: beside its records, which are of the front on test."""

    result: Mapping[str, Any]  # as front.json has it
    latency: Latency


def search(
    supernet: str,
    corpus: "str | Corpus",
    objective: str,
    *,
    budget: str = "",
    cost: str = "",
    strategy: Strategy = "evolution",
    evaluations: int = 100,
    seed: int = 0,
    layer: int | None = None,
    limit: int | None = None,
    teacher: str = "",
    top_layers: int | None = None,
    split: str | None = None,
    device: str = "auto",
    executor: str | Executor = "serial",
    threads: int | None = None,
    skip_bad: bool = False,
    allow_shared_speakers: bool = False,
    out: str | Path | None = None,
    store: str | None = None,
) -> Found:
    """Search the subnets of a supernet for those that are worth their cost.

    Subnets are scored on dev with the supernet's own weights, none is trained. Those of the front,
    which no other one beats at its cost, are then scored on test. The same call goes on after a
    kill, and the outcome is the same.

    Args:
        supernet: ``lighthubert:FILE`` or FOLDER, ``tiny_lighthubert``, ``random(...)``.
        corpus: Address such as ``tsv:my/speech``, or a corpus.
        objective: ``probe:TASK``, such as ``probe:phone39``; or ``distill``.
        budget: Upper limits, such as ``params<=40M,macs<=800G,rtf<=0.05``.
        cost: Of the front: ``params``, ``macs`` or ``rtf``; the budget's first where empty.
        strategy: ``evolution`` or ``random``.
        evaluations: How many subnets to look at.
        seed: Of the search.
        layer: Hidden state that is probed; the last of each where None.
        limit: Utterances of each split, at equal steps.
        teacher: For ``distill``, where the supernet does not name it.
        top_layers: For ``distill``: teacher blocks to average.
        split: Split column, where a corpus has several.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        executor: ``serial`` or ``local:N``, N processes on this machine.
        threads: Of each item, instead of the executor's share.
        skip_bad: Leave bad items out, counted, instead of stopping.
        allow_shared_speakers: Go on although splits share speakers.
        out: Folder for the front, scores and the store; the cache, and no store, where None.
        store: SQLAlchemy URL of the store instead of OUT's.

    Raises:
        UserError: Something cannot be searched as asked.
    """
    bench = Bench.of(
        out=out,
        store=store,
        device=device,
        executor=executor,
        threads=threads,
        skip_bad=skip_bad,
        allow_shared_speakers=allow_shared_speakers,
    )
    _, address, bench = named(bench, [], corpus, split)
    desk = Desk(bench)
    wanted = Wanted(
        supernet=supernet,
        corpus=address,
        split=split,
        limit=limit,
        objective=objective,
        layer=layer,
        teacher=teacher,
        top_layers=top_layers,
    )
    options = unless_default(
        budget=(budget, ""),
        cost=(cost, ""),
        strategy=(strategy, "evolution"),
        evaluations=(evaluations, 100),
        seed=(seed, 0),
        layer=(layer, None),
        limit=(limit, None),
        teacher=(teacher, ""),
        top_layers=(top_layers, None),
        split=(split, None),
    )
    command = str(
        bench.call(
            "subnet search", supernet=supernet, corpus=address, objective=objective, **options
        )
    )
    with executor_of(executor).open(desk) as carry_out:
        going = _begun(wanted, desk, budget, cost, command, carry_out)
        with same_audio(going.criterion.speech.all_cuts, going.log.withdraw):
            going.go(strategy, evaluations, seed)
            outcomes = going.test()
    about = {"upstream": supernet, "objective": objective, "strategy": strategy, "seed": seed}
    result = about | _result(going) | {"provenance": asdict(bench.provenance(command))}
    bench.save([record for outcome in outcomes for record in outcome.records], ())
    bench.summarise()
    return Found(
        outcomes=tuple(outcomes),
        files=_write(going, result, bench.out),
        result=result,
        latency=going.latency,
    )


def _begun(
    wanted: Wanted, desk: Desk, budget: str, cost: str, command: str, carry_out: Map
) -> "_Search":
    """Return a search whose limits can be kept, with the scores that are there."""
    limits = parse_limits(budget)
    axis = cost or next(iter(limits), "params")
    if axis not in COSTS:
        raise unknown("cost", axis, COSTS)
    sharing, criterion = wanted.criterion(desk)
    costs = _counted(sharing)
    check_limits(sharing.space, costs, {k: limit for k, limit in limits.items() if k in costs})
    desk.bench.prepare()
    out = desk.bench.out
    latency = _latency(sharing, out / "latency.json", desk.bench.device)
    costs |= {"rtf": latency.cost}
    check_limits(sharing.space, costs, limits)
    return _Search(
        wanted=wanted,
        desk=desk,
        sharing=sharing,
        criterion=criterion,
        costs=costs,
        limits=limits,
        cost=axis,
        latency=latency,
        log=ScoreLog(out / "scores.jsonl", fingerprint(criterion.identity), criterion.code),
        command=command,
        carry_out=carry_out,
    )


@dataclass(slots=True, kw_only=True)
class _Search:
    """One search and what it found."""

    wanted: Wanted
    desk: Desk
    sharing: Sharing
    criterion: Criterion
    costs: Mapping[str, LayerCost]
    limits: Mapping[str, float]
    cost: str
    latency: Latency
    log: ScoreLog
    command: str  # what a person types for the whole search
    carry_out: Map
    candidates: list[Candidate] = field(default_factory=list)  # all within the limits

    def go(self, strategy: Strategy, evaluations: int, seed: int) -> None:
        """Look at subnets; scores that are there already are not measured again."""
        if len(self.log):
            logger.info(f"{len(self.log)} scores are there already.")
        sign = -1 if self.criterion.lower_is_better else 1
        highest = float("-inf")
        with progress("Searching", evaluations, "subnets") as advance:

            def evaluate(subnets: Sequence[Subnet]) -> list[float]:
                nonlocal highest
                for _ in self.measured(subnets, "dev"):
                    advance(1)
                values = [sign * self.score(subnet).value for subnet in subnets]
                highest = max([highest, *values])
                advance(0, f"best {sign * highest:.4f}")
                return values

            self.candidates = candidates_of(
                self.sharing.space,
                self.costs,
                self.limits,
                evaluate,
                evaluations=evaluations,
                seed=seed,
                strategy=strategy,
                first=list(self.named.values()),
            )

    def measured(self, subnets: Sequence[Subnet], split: str) -> Iterator[Subnet]:
        """Measure what is not in the log; yield each subnet when it is there."""
        open_ones = {self.item(x, split): x for x in subnets if not self.log.has(x, split)}
        yield from (subnet for subnet in subnets if subnet not in open_ones.values())
        for item, ended in self.carry_out(list(open_ones)):
            if isinstance(ended, Failure):
                raise ended.error or UserError(ended.reason)
            self.log.write(open_ones[item], split, Score(**ended.notes["score"]))
            yield open_ones[item]

    @property
    def about(self) -> dict[str, str]:
        """What a worker holds against what it reads."""
        return {"identity": fingerprint(self.criterion.identity)}

    def item(self, subnet: Subnet, split: str) -> Item:
        """Return the measurement of one subnet."""
        speech = self.criterion.speech
        return Item(
            kind=KIND,
            upstream={"address": self.sharing.address_of(subnet)},
            corpus={"address": self.wanted.corpus, "sha256": dict(speech.corpus.sha256)},
            what={**asdict(self.wanted), **self.about, "subnet": str(subnet), "part": split},
            how={**self.desk.bench.how, "code": self.criterion.code},
            kept=False,
        )

    @property
    def named(self) -> dict[str, Subnet]:
        """The subnets that a search is compared with."""
        space = self.sharing.space
        found = {"smallest": space.smallest, "default": self.sharing.default}
        return found | {"largest": space.largest}

    @property
    def front(self) -> list[Candidate]:
        """Those that no other one beats, cheapest first."""
        return front(self.candidates, self.cost)

    @property
    def best(self) -> Candidate:
        """The best within the limits."""
        return best(self.candidates, self.cost)

    def score(self, subnet: Subnet, split: str = "dev") -> Score:
        """Return a score from the log."""
        return self.log.read(subnet, split)

    def test(self) -> list[Outcome]:
        """Score the front on test, and those by name on dev that are beyond the budget."""
        subnets = [candidate.subnet for candidate in self.front]
        tested = list(dict.fromkeys([*subnets, self.best.subnet]))
        with progress("Scoring the front on test", len(tested), "subnets") as advance:
            for _ in self.measured(tested, "test"):
                advance(1)
        for _ in self.measured(list(self.named.values()), "dev"):
            pass
        made = self.desk.bench.provenance(self.command)
        outcomes = []
        for subnet in subnets:
            encoder, score = self.sharing.cut(subnet).spec, self.score(subnet, "test")
            record = self.criterion.record(score, encoder, subnet.depth, "test", made)
            outcomes.append(Outcome(key=record.key, records=(record,)))
        return outcomes


def _counted(sharing: Sharing) -> dict[str, LayerCost]:
    """Return the costs that need no machine."""
    parameters = partial(count_parameters, extractor_mode=sharing.supernet.mode)
    counts: dict[str, Callable[[Subnet], float]] = {
        "params": parameters,
        "macs": count_superb_macs,
    }
    return {name: tabulate(sharing.space, count) for name, count in counts.items()}


def _latency(sharing: Sharing, path: Path, device: str) -> Latency:
    """Read the table of this machine, or measure it."""
    space, mode = sharing.space, sharing.supernet.mode
    place = place_of(space, mode, device)
    found = read_latency(path, place)
    if found is None:
        subnets = [space.smallest, sharing.default, space.largest]
        subnets += [space.sample(seed) for seed in range(_CHECKED_DRAWS)]
        whole = [sharing.cut(subnet) for subnet in dict.fromkeys(subnets)]
        found = measure_latency(space, place, device, mode, whole)
        found.write(path)
    return found


def _result(found: _Search) -> dict[str, Any]:
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
        "latency": [asdict(one) | {"error": one.error} for one in found.latency.checked],
    }


def _entry(found: _Search, subnet: Subnet, *, tested: bool = False) -> dict[str, Any]:
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


def _interval(score: Score) -> dict[str, float]:
    low, high = (score.value if end is None else end for end in (score.low, score.high))
    return {"value": score.value, "low": low, "high": high}


def _write(found: _Search, result: Mapping[str, Any], out: Path) -> tuple[Path, ...]:
    """Write the front, its figure, and the best as a file that an address takes."""
    from auscult.results.curve import short_names
    from auscult.results.figure.pareto import Place, pareto_front

    def place(subnet: Subnet) -> Place:
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
    return out / "front.json", out / "front.png", out / "best.json"
