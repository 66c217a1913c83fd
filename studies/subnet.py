"""One subnet of a supernet, scored on one split: what a search is made of."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from auscult.dataset import SPLITS, check_speakers, spread
from auscult.errors import UserError, unknown
from auscult.extraction import long_enough
from auscult.probing import ProbeTask, check_labels, resolve_tasks
from auscult.record import fingerprint
from auscult.upstreams.lighthubert.sharing import Sharing, share
from auscult.upstreams.lighthubert.subnet import parse_subnet

from .bench import Bench
from .criterion import Criterion, DistillationCriterion, ProbeCriterion, Speech
from .desk import Desk
from .item import Item, Outcome

if TYPE_CHECKING:
    from auscult.dataset import Corpus

KIND = "subnet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What subnets are asked for: all that a score depends on beside the subnet."""

    supernet: str
    corpus: str
    split: str | None
    limit: int | None
    objective: str
    layer: int | None
    teacher: str
    top_layers: int | None

    def criterion(self, desk: Desk) -> tuple[Sharing, Criterion]:
        """Return the supernet and the measure of its subnets, read once.

        Raises:
            UserError: Something of that cannot be measured.
        """
        return desk.once(self, lambda: self._read(desk))

    def _read(self, desk: Desk) -> tuple[Sharing, Criterion]:
        sharing = share(self.supernet, device=desk.bench.device)
        speech = _speech(
            sharing, desk.corpus(self.corpus, self.split, None), self.limit, desk.bench
        )
        if self.objective == "distill":
            return sharing, DistillationCriterion(sharing, speech, self.teacher, self.top_layers)
        task = _task(self.objective, speech, desk.bench)
        return sharing, ProbeCriterion(sharing, speech, task, _layer(self.layer, sharing))


def measure(item: Item, desk: Desk) -> Outcome:
    """Score one subnet on one split."""
    what = dict(item.what)
    text, part, identity = (what.pop(name) for name in ("subnet", "part", "identity"))
    sharing, criterion = Wanted(**what).criterion(desk)
    if fingerprint(criterion.identity) != identity:
        raise UserError(
            "The supernet, its teacher or the speech is another than when the search began; run "
            "it again."
        )
    desk.expect_code(item, criterion.code)
    subnet = parse_subnet(text, sharing.space, sharing.supernet.mode)
    return Outcome(key=item.key, records=(), notes={"score": asdict(criterion.score(subnet, part))})


def _speech(sharing: Sharing, data: "Corpus", limit: int | None, bench: Bench) -> Speech:
    """Choose the utterances; those too short for a frame are left out or refused."""
    encoder = sharing.encoder(sharing.space.smallest)
    kept = {
        name: long_enough(encoder, spread(list(data.split(name)), limit), skip_bad=bench.skip_bad)
        for name in SPLITS
    }
    cuts = {name: found for name, (found, _) in kept.items()}
    skipped = {name: len(data.skipped) + len(short) for name, (_, short) in kept.items()}
    return Speech(data, cuts, skipped, limit, bench.how)


def _task(objective: str, speech: Speech, bench: Bench) -> ProbeTask:
    """Return the task that a probe reads.

    Raises:
        UserError: Not an objective, not one task, or labels that cannot be probed.
    """
    kind, _, name = objective.partition(":")
    if kind != "probe" or not name:
        raise unknown("objective", objective, ["distill", "probe:TASK"])
    task, *others = resolve_tasks(name, speech.all_cuts)
    if others:
        names = ", ".join(one.spec.name for one in (task, *others))
        raise UserError(f"The objective {objective} stands for several tasks; choose of {names}.")
    check_labels(task, speech.cuts, skip_unlabelled=bench.skip_bad)
    if not task.about_speakers:
        check_speakers(speech.corpus, bench.allow_shared_speakers)
    return task


def _layer(layer: int | None, sharing: Sharing) -> int | None:
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
