"""The search of subnets: budgets that hold, optima that are found, parts that add up."""

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from lhotse import Recording
from torch import nn

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.upstreams.lighthubert import LightHubertUpstream
from auscult.upstreams.lighthubert import latency as latency_module
from auscult.upstreams.lighthubert.checkpoint import write_supernet
from auscult.upstreams.lighthubert.cost import count_parameters, count_superb_macs
from auscult.upstreams.lighthubert.latency import (
    Checked,
    Latency,
    measure_latency,
    place_of,
    read_latency,
)
from auscult.upstreams.lighthubert.network import num_frames
from auscult.upstreams.lighthubert.pretraining import Config
from auscult.upstreams.lighthubert.scaled import build_space
from auscult.upstreams.lighthubert.search import (
    Breeder,
    Candidate,
    Costs,
    LayerCost,
    best,
    check_limits,
    front,
    parse_limits,
    search,
    tabulate,
)
from auscult.upstreams.lighthubert.sharing import KeptExtractor, share
from auscult.upstreams.lighthubert.space import (
    BASE,
    SMALL,
    Dimensions,
    ExtractorMode,
    SearchSpace,
    Subnet,
    uniform,
)
from auscult.upstreams.lighthubert.supernet import draw_supernet
from auscult.upstreams.lighthubert.target import Norm, as_teacher, teacher_target
from auscult.upstreams.lighthubert.upstream import prepare
from auscult.upstreams.lighthubert.validation import HeldOutLoss, read_settings
from auscult.upstreams.masking import span_mask

PARAMETERS = partial(count_parameters, extractor_mode="layer_norm")
COUNTS: dict[str, Callable[[Subnet], float]] = {"params": PARAMETERS, "macs": count_superb_macs}
LISTED = SearchSpace("listed", (256, 384), (4, 6, 8), (3.0, 3.5), (1, 2), uniform(256, 2, 6, 3.5))
STORED = Dimensions(
    width=32,
    ffn=64,
    heads=3,
    head_dim=8,
    layers=3,
    channels=16,
    position_kernel=16,
    target_dim=128,
)
TINY = build_space(
    "custom", STORED, embed_dims=(16, 32), heads=(1, 3), ratios=(1.0, 2.0), depths=(2, 3)
)


def costs_of(space: SearchSpace) -> Costs:
    return {name: tabulate(space, count) for name, count in COUNTS.items()}


COSTS = {space.name: costs_of(space) for space in (SMALL, BASE, LISTED)}


@pytest.mark.parametrize("space", [SMALL, BASE], ids=lambda space: space.name)
@pytest.mark.parametrize("name", list(COUNTS))
def test_a_table_adds_up_to_the_count(space: SearchSpace, name: str) -> None:
    table = COSTS[space.name][name]
    for subnet in (space.smallest, space.default, space.largest, *map(space.sample, range(20))):
        assert table(subnet) == COUNTS[name](subnet)


# --- budgets ---------------------------------------------------------------------------------


def offspring(space: SearchSpace, costs: Costs, number: int) -> list[tuple[Subnet, dict[str, int]]]:
    """Breed from whatever was bred, each under limits drawn anew; values are nonsense."""
    generator = random.Random(3)
    breeder = Breeder(space, costs, generator)
    least, most = (
        {name: COUNTS[name](subnet) for name in COUNTS}
        for subnet in (space.smallest, space.largest)
    )
    found: list[tuple[Subnet, dict[str, int]]] = []
    candidates: list[Candidate] = []
    for i in range(number):
        limits = {
            name: int(least[name] + generator.random() ** 3 * (most[name] - least[name]))
            for name in COUNTS
        }
        subnet = breeder.propose(limits, candidates[-30:] if i % 4 else [])
        found.append((subnet, limits))
        candidates.append(Candidate(subnet, breeder.costs_of(subnet), generator.random()))
    return found


@pytest.mark.parametrize("space", [SMALL, BASE, LISTED], ids=lambda space: space.name)
def test_no_offspring_breaks_its_budget(space: SearchSpace) -> None:
    found = offspring(space, COSTS[space.name], 2500)
    assert len({subnet for subnet, _ in found}) > (100 if space is not LISTED else 30)
    for i, (subnet, limits) in enumerate(found):
        space.check(subnet)
        assert PARAMETERS(subnet) <= limits["params"]
        if i % 25 == 0:  # counting takes a millisecond
            assert count_superb_macs(subnet) <= limits["macs"]


def test_the_guard_sees_a_budget_that_is_broken() -> None:
    table = COSTS["small"]["params"]
    cheap = LayerCost(table.stem, {part: 0.9 * cost for part, cost in table.layer.items()})
    found = offspring(SMALL, {**COSTS["small"], "params": cheap}, 300)
    assert any(PARAMETERS(subnet) > limits["params"] for subnet, limits in found)


def test_a_budget_for_the_smallest_alone_is_kept() -> None:
    limits = {"params": PARAMETERS(SMALL.smallest)}
    breeder = Breeder(SMALL, COSTS["small"], random.Random(0))
    parent = Candidate(SMALL.smallest, breeder.costs_of(SMALL.smallest), 1.0)
    assert {breeder.propose(limits, [parent]) for _ in range(20)} == {SMALL.smallest}
    looked_at: list[Subnet] = []

    def evaluate(subnet: Subnet) -> float:
        looked_at.append(subnet)
        return 0.0

    found = search(SMALL, COSTS["small"], limits, each(evaluate), evaluations=30, seed=0)
    assert [candidate.subnet for candidate in found] == looked_at == [SMALL.smallest]


def test_a_budget_that_no_subnet_keeps_names_the_least() -> None:
    check_limits(SMALL, COSTS["small"], {"params": 11_449_088})
    with pytest.raises(UserError, match="params<=11,449,087: the smallest, embed=256.*11,449,088"):
        check_limits(SMALL, COSTS["small"], {"params": 11_449_087})
    table = LayerCost(dict.fromkeys(SMALL.embed_dims, 0.0123456789), _free(SMALL))
    with pytest.raises(UserError, match="rtf<=0.01: the smallest, .*, has 0.0123457"):
        check_limits(SMALL, {"rtf": table}, {"rtf": 0.01})


def _free(space: SearchSpace) -> Mapping[tuple[int, int, int], float]:
    return dict.fromkeys(tabulate(space, lambda subnet: 0.0).layer, 0.0)


def test_limits_are_read() -> None:
    assert parse_limits("") == {}
    found = parse_limits(" params<=40M, macs <= 0.8T,rtf<=5e-2")
    assert found == {"params": 40_000_000, "macs": 800_000_000_000, "rtf": 0.05}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("param<=40M", "Unknown budget 'param'. Did you mean params"),
        ("params<=40M,", "Unknown budget ''"),
        ("params<=40M,params<=20M", "params stands there twice"),
        ("params<40M", "write params<=40M"),
        ("params", "a budget is an upper limit"),
        ("rtf<=fast", "budget 'fast' is no number"),
    ],
)
def test_limits_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_limits(text)


# --- optima ----------------------------------------------------------------------------------


def distance(target: Subnet) -> Callable[[Subnet], float]:
    """Return by how many choices a subnet is off ``target``, as a value to be raised to zero."""

    def value(subnet: Subnet) -> float:
        layers = itertools.zip_longest(
            zip(subnet.heads, subnet.ratios, strict=True),
            zip(target.heads, target.ratios, strict=True),
        )
        off = sum((a or (0, 0))[i] != (b or (0, 0))[i] for a, b in layers for i in (0, 1))
        return -float(off + (subnet.embed_dim != target.embed_dim))

    return value


@pytest.mark.parametrize("seed", range(2))
def test_evolution_finds_a_subnet_that_random_search_does_not(seed: int) -> None:
    limits = {"params": 30_000_000}
    breeder = Breeder(SMALL, COSTS["small"], random.Random(100 + seed))
    value = each(distance(breeder.propose(limits)))
    look = partial(search, SMALL, COSTS["small"], limits, value, seed=seed)
    evolved = look(evaluations=1000)
    assert best(evolved, "params").value == 0
    assert len(evolved) == len({candidate.subnet for candidate in evolved}) <= 1000
    drawn = look(evaluations=3000, strategy="random")
    assert best(drawn, "params").value < -4
    assert all(c.costs["params"] <= 30_000_000 for c in [*evolved, *drawn])


def test_evolution_makes_the_most_of_a_budget() -> None:
    limits = {"params": 40_000_000}
    found = search(SMALL, COSTS["small"], limits, each(PARAMETERS), evaluations=400, seed=0)
    most = 39_937_536  # of @params<=40M, which lists all sums
    assert most - 1000 < best(found, "params").value <= most


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_all_of_a_small_space_is_looked_at(strategy: str) -> None:
    value = {subnet: random.Random(str(subnet)).random() for subnet in everything(LISTED)}
    found = search(
        LISTED,
        COSTS["listed"],
        {},
        each(value.__getitem__),
        evaluations=2000,
        seed=1,
        strategy=strategy,  # type: ignore[arg-type]
        first=[LISTED.largest, LISTED.smallest],
    )
    assert [c.subnet for c in found[:2]] == [LISTED.largest, LISTED.smallest]
    assert len(found) > 0.95 * LISTED.num_subnets
    assert best(found, "params").value == max(value.values())


def each(value: Callable[[Subnet], float]) -> Callable[[Sequence[Subnet]], list[float]]:
    return lambda subnets: [value(subnet) for subnet in subnets]


def everything(space: SearchSpace) -> list[Subnet]:
    found = []
    for dim, depth in itertools.product(space.embed_dims, space.depths):
        widths = [int(dim * ratio) for ratio in space.ratios]
        for heads in itertools.product(space.heads, repeat=depth):
            for inner in itertools.product(widths, repeat=depth):
                found.append(Subnet(dim, heads, inner))
    assert len(found) == space.num_subnets
    return found


def test_the_draws_depend_on_seed_and_values_alone() -> None:
    look = partial(search, SMALL, COSTS["small"], {"params": 20_000_000}, evaluations=60)
    first = look(each(distance(SMALL.smallest)), seed=4)
    assert look(each(distance(SMALL.smallest)), seed=4) == first
    assert look(each(distance(SMALL.smallest)), seed=5) != first
    assert look(each(distance(SMALL.default)), seed=4)[-1] != first[-1]


@pytest.mark.parametrize("limits", [{}, {"params": 20_000_000}, {"macs": 800_000_000_000}])
def test_no_draw_depends_on_times(limits: dict[str, float]) -> None:
    found = []
    for machine in range(10):
        chance = random.Random(machine)
        times = tabulate(SMALL, lambda subnet: 0.0)
        times = LayerCost(
            {dim: chance.random() for dim in times.stem},
            {part: chance.random() for part in times.layer},
        )
        costs = {**COSTS["small"], "rtf": times}
        near = each(distance(SMALL.sample(1)))
        seen = search(SMALL, costs, limits, near, evaluations=40, seed=2)
        found.append([(c.subnet, c.value) for c in seen])
    assert all(one == found[0] for one in found)


def test_what_does_not_keep_the_limits_is_no_parent() -> None:
    limits = {"params": 20_000_000}
    named = [SMALL.largest, SMALL.smallest, SMALL.default]
    found = search(
        SMALL, COSTS["small"], limits, each(PARAMETERS), evaluations=5, seed=0, first=named
    )
    assert found[0].subnet == SMALL.smallest and SMALL.largest not in [c.subnet for c in found]


def test_the_front_by_hand() -> None:
    rows = [(1, 0.2), (2, 0.1), (2, 0.3), (3, 0.3), (4, 0.9), (5, 0.9), (6, 0.5)]
    every = [Candidate(SMALL.sample(i), {"params": c}, v) for i, (c, v) in enumerate(rows)]
    assert front(reversed(every), "params") == [every[0], every[2], every[4]]
    assert best(every, "params") == every[4]


# --- latency ---------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Latency:
    monkeypatch.setattr(latency_module, "LENGTHS", (4000, 16_000))
    monkeypatch.setattr(latency_module, "RUNS", 3)
    supernet = draw_supernet("layer_norm", 0, STORED).eval()
    whole = [
        LightHubertUpstream(supernet.cut(subnet), TINY, name="", source="").eval()
        for subnet in (TINY.smallest, TINY.largest)
    ]
    return measure_latency(TINY, place_of(TINY, "layer_norm", "cpu"), "cpu", "layer_norm", whole)


def test_every_part_has_a_time_and_no_larger_one_takes_less(measured: Latency) -> None:
    table = measured.cost
    assert set(table.stem) == {16, 32} and len(table.layer) == 8
    assert 0 < table.stem[16] <= table.stem[32]
    for (a, b, c), (d, e, f) in itertools.product(table.layer, repeat=2):
        if a <= d and b <= e and c / a <= f / d:
            assert 0 < table.layer[a, b, c] <= table.layer[d, e, f]
    for one in measured.checked:  # tiny parts on a busy machine: only the order of magnitude
        assert 0.1 < one.predicted / one.measured < 10
        assert one.error == pytest.approx(one.predicted / one.measured - 1)


def test_a_table_comes_back_on_the_same_machine_only(
    measured: Latency, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latency.json"
    assert read_latency(path, measured.place) is None
    measured.write(path)
    assert read_latency(path, measured.place) == measured
    assert read_latency(path, place_of(TINY, "group_norm", "cpu")) is None
    monkeypatch.setattr(latency_module, "code_of", lambda *_: "other code")
    assert read_latency(path, place_of(TINY, "layer_norm", "cpu")) is None
    monkeypatch.setattr(latency_module, "processor_name", lambda device: "card")
    assert place_of(TINY, "layer_norm", "cuda:0") == place_of(TINY, "layer_norm", "cuda:1")
    for damage in (lambda text: text[:-30], lambda text: text.replace("0.0", "0.1", 1)):
        measured.write(path)
        path.write_text(damage(path.read_text()))
        assert read_latency(path, measured.place) is None and not path.exists()


@pytest.mark.parametrize(("processor", "warns"), [(19.0, False), (11.0, True)])
def test_a_busy_machine_is_named(
    processor: float, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    place = replace(place_of(TINY, "layer_norm", "cpu"), threads=2)
    latency_module._warn_busy(place, wall=10.0, processor=processor)
    latency_module._warn_busy(replace(place, device="cuda"), wall=10.0, processor=1.0)
    assert ("busy: of 2 threads, measuring had 55% of the time" in caplog.text) is warns
    assert len(caplog.records) == warns


def test_an_error_is_relative_to_what_was_measured() -> None:
    assert Checked("", predicted=0.09, measured=0.1).error == pytest.approx(-0.1)


# --- what subnets share ----------------------------------------------------------------------


def write(folder: Path, mode: ExtractorMode = "layer_norm") -> str:
    write_supernet(draw_supernet(mode, 5, STORED), TINY, 2, folder)
    return f"lighthubert:{folder}"


@pytest.mark.parametrize("mode", ["layer_norm", "group_norm"])
def test_a_shared_encoder_computes_what_the_loaded_one_does(
    mode: ExtractorMode, tmp_path: Path
) -> None:
    spec = write(tmp_path / "net", mode)
    sharing = share(spec)
    assert sharing.space == TINY and sharing.default == TINY.default
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(size, generator=generator) for size in (9000, 4000, 9000)]
    for subnet in (TINY.smallest, TINY.sample(1), TINY.largest):
        loaded = auscult.load(f"{spec}@{subnet}")
        shared = sharing.encoder(subnet)
        assert loaded.spec == shared.spec == sharing.cut(subnet).spec
        for _ in range(2):  # computed, then kept
            audio = Waveforms.of(rows)
            with torch.no_grad():
                pairs = zip(shared(audio).layers, loaded(audio).layers, strict=True)
                assert all(torch.equal(a, b) for a, b in pairs)


def test_convolutions_are_computed_once() -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            calls.append(len(samples))
            return samples[..., None].repeat(1, 1, 3)

    samples, lengths = torch.randn(2, 50), torch.tensor([50, 40])
    kept = KeptExtractor(Counting(), most=2 * 50 * 3 * 4)  # type: ignore[arg-type]
    for _ in range(2):
        assert torch.equal(kept(samples, lengths), samples[..., None].repeat(1, 1, 3))
    assert calls == [2]
    kept(samples + 1, lengths)  # no room
    kept(samples + 1, lengths)
    assert calls == [2, 2, 2]
    kept(samples, torch.tensor([50, 50]))
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lighthubert_small", r"shape without weights: write random\(lighthubert_small\)"),
        ("random(lighthubert_small@a_small)", "is one subnet; drop @a_small"),
        ("hubert_base", "Unknown supernet 'hubert_base'"),
        ("lighthubert", "lighthubert needs the checkpoint of a supernet"),
        ("lighthubert:.", "is no supernet but one subnet of it"),
        ("lighthubert:nosuch.pt", "nosuch.pt"),
    ],
)
def test_what_has_no_subnets(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        share(spec)


# --- distillation ----------------------------------------------------------------------------

TEACHER = "random(hubert_tiny, seed=1)"


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("speech")
    generator = torch.Generator().manual_seed(2)
    found = []
    for i, size in enumerate((9000, 7000, 5000)):
        path = folder / f"{i}.wav"
        soundfile.write(path, 0.1 * torch.randn(size, generator=generator).numpy(), 16_000)
        found.append(Recording.from_file(path).to_cut())
    return found


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_the_loss_is_that_of_pretraining(norm: Norm, cuts: list[Any], tmp_path: Path) -> None:
    sharing = share(write(tmp_path / "net"))
    config = Config(teacher=TEACHER, top_layers=3, target_norm=norm, stage=2)
    losses, counts = HeldOutLoss(sharing, config, cuts)(TINY.sample(7))
    audio = Waveforms.of([torch.from_numpy(cut.load_audio()[0]) for cut in cuts])
    masked = span_mask(num_frames(audio.lengths), (0, 1, 2), probability=0.65, span=10, least=2)
    target = teacher_target(as_teacher(auscult.load(TEACHER), 3), audio, 3, norm)
    samples = prepare(audio, "layer_norm")
    with torch.no_grad():
        last = sharing.supernet(samples, audio.lengths, TINY.sample(7), masked)[-1]
        apart = (sharing.supernet.predict(last) - target).abs().mean(-1)
    wanted = torch.stack([row[hidden].sum() for row, hidden in zip(apart, masked, strict=True)])
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-6)
    assert counts.tolist() == masked.sum(1).tolist() and counts.min() > 0
    again = HeldOutLoss(sharing, config, cuts)(TINY.sample(7))
    assert torch.equal(again[0], losses) and torch.equal(again[1], counts)


def test_the_teacher_stands_beside_what_it_taught(tmp_path: Path) -> None:
    sharing = share(write(tmp_path / "net"))
    with pytest.raises(UserError, match="does not say what it was distilled from.*--teacher"):
        read_settings(sharing)
    assert read_settings(sharing, TEACHER).teacher == TEACHER
    settings = {"family": "lighthubert", "teacher": "mine", "top_layers": 3, "mask_span": 5}
    (tmp_path / "net" / "training.json").write_text(json.dumps(settings))
    found = read_settings(sharing)
    assert (found.teacher, found.top_layers, found.mask_span) == ("mine", 3, 5)
    assert read_settings(sharing, TEACHER, 2) == Config(teacher=TEACHER, top_layers=2, mask_span=5)


def test_a_teacher_of_another_width(cuts: list[Any], tmp_path: Path) -> None:
    stored = replace(STORED, target_dim=64)
    space = build_space(
        "custom", stored, embed_dims=(16, 32), heads=(1, 3), ratios=(1.0, 2.0), depths=(2, 3)
    )
    write_supernet(draw_supernet("layer_norm", 5, stored), space, 2, tmp_path / "net")
    sharing = share(f"lighthubert:{tmp_path / 'net'}")
    with pytest.raises(UserError, match="predicts 64 dimensions, and the teacher .* has 128"):
        HeldOutLoss(sharing, Config(teacher=TEACHER, top_layers=3), cuts)
