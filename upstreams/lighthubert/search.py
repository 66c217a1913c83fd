"""Which subnets are worth their cost: random and evolutionary search under budgets.

Every cost here is a sum of something for the width and something for each layer, and grows with
every choice. A subnet that costs too much is therefore mended by moving single choices down until
it fits, never thrown away: any budget that the smallest subnet keeps is kept by all that are bred.

Written by hand rather than on pymoo: its repair operators would do the same mending, but a search
that goes on after it was killed replays its draws, which takes a loop with no state of its own.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, Literal

from auscult.errors import UserError, unknown

from .budget import read_limit
from .space import SearchSpace, Subnet, ffn_dim

COSTS = ("params", "macs", "rtf")
MEASURED = ("rtf",)  # differs from one measurement to the next
Strategy = Literal["random", "evolution"]

_DRAWN, _LEAST_DRAWN = 0.1, 8  # share of the evaluations that evolution begins with; at least
_BROOD = 8  # children of the same parents
_PARENTS = 4
_CROSSED = 0.7  # share of the offspring that has two parents
_FULL = 0.5  # share of the offspring that may use the whole budget
_ATTEMPTS = 8  # at a subnet that was not there yet


@dataclass(frozen=True, slots=True)
class LayerCost:
    """A cost that is a sum over layers, as a table."""

    stem: Mapping[int, float]  # embed_dim -> all but the layers
    layer: Mapping[tuple[int, int, int], float]  # embed_dim, heads, ffn_dim -> one layer

    def __call__(self, subnet: Subnet) -> float:
        """Return what ``subnet`` costs."""
        dim = subnet.embed_dim
        layers = zip(subnet.heads, subnet.ffn_dims, strict=True)
        return self.stem[dim] + sum(self.layer[dim, heads, inner] for heads, inner in layers)


Costs = Mapping[str, LayerCost]  # by name, one of COSTS


def tabulate(space: SearchSpace, count: Callable[[Subnet], float]) -> LayerCost:
    """Return ``count``, which is a sum over layers, as a table."""
    stem, layer = {}, {}
    for dim in space.embed_dims:
        stem[dim] = count(Subnet(dim, (), (), space.stored))
        for heads in space.heads:
            for inner in (ffn_dim(dim, ratio) for ratio in space.ratios):
                one = Subnet(dim, (heads,), (inner,), space.stored)
                layer[dim, heads, inner] = count(one) - stem[dim]
    return LayerCost(stem, layer)


def parse_limits(text: str) -> dict[str, float]:
    """Read budgets such as ``params<=40M,macs<=800G,rtf<=0.05``; nothing means none.

    Raises:
        UserError: Not such budgets.
    """
    limits: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        words = re.fullmatch(r"\s*(\w*)\s*([<>=]*)\s*(.*?)\s*", part)
        name, sign, limit = words.groups() if words else (part, "", "")
        if name not in COSTS:
            raise unknown("budget", name, COSTS)
        if name in limits:
            raise UserError(f"--budget {text}: {name} stands there twice.")
        try:
            number = read_limit(name, sign, limit)
        except UserError as error:
            raise UserError(f"--budget {text}: {error}") from None
        limits[name] = float(number) if name == "rtf" else int(number)
    return limits


def check_limits(space: SearchSpace, costs: Costs, limits: Mapping[str, float]) -> None:
    """Pass if a subnet of ``space`` keeps all ``limits``.

    Raises:
        UserError: None does; the message names the least possible cost.
    """
    for name, limit in limits.items():
        least = costs[name](space.smallest)
        if least > limit:
            raise UserError(
                f"No subnet of the {space.name} space has {name}<={_text(limit)}: the smallest, "
                f"{space.smallest}, has {_text(least)}."
            )


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subnet that was evaluated."""

    subnet: Subnet
    costs: Mapping[str, float]
    value: float  # what is searched for: more is better


def front(candidates: Iterable[Candidate], cost: str) -> list[Candidate]:
    """Return those that no other one beats in value at the same cost or less, cheapest first."""
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.costs[cost], -c.value, str(c.subnet))):
        if not found or candidate.value > found[-1].value:
            found.append(candidate)
    return found


def best(candidates: Iterable[Candidate], cost: str) -> Candidate:
    """Return the one of the highest value, of equal ones the cheapest."""
    return max(candidates, key=lambda c: (c.value, -c.costs[cost], str(c.subnet)))


def search(
    space: SearchSpace,
    costs: Costs,
    limits: Mapping[str, float],
    evaluate: Callable[[Sequence[Subnet]], Sequence[float]],
    *,
    evaluations: int,
    seed: int,
    strategy: Strategy = "evolution",
    first: Sequence[Subnet] = (),
) -> list[Candidate]:
    """Evaluate subnets within ``limits`` and return all of them, in the order they were tried.

    Evolution looks at a brood of 8 at a time, so that these can be scored side by side.
    Each is bred under limits of its own: the whole budget half of the time, else a share of it
    drawn anew, so that the front moves everywhere and its dear end most. Evolution crosses and
    changes the best that keep those limits; random search draws choices uniformly and mends them.
    The draws depend on ``seed``, the values and the limited costs alone: on none that is measured,
    unless it is limited.

    Args:
        space: Where to look.
        costs: What subnets cost, by name.
        limits: The most that they may cost, of some of ``costs``; see :func:`check_limits`. Where
            there are none, shares are drawn of what the largest subnet counts.
        evaluate: What is searched for, of several subnets at once: more is better.
        evaluations: How many subnets are evaluated, ``first`` included; fewer where there are no
            more within the limits, or none is found in a few attempts.
        seed: Of all draws.
        strategy: How subnets are made.
        first: Evaluated before any are drawn, those within the limits.
    """
    breeder = Breeder(space, costs, random.Random(seed))
    counted = {name: cost(space.largest) for name, cost in costs.items() if name not in MEASURED}
    bounds = dict(limits) or counted
    found: dict[Subnet, Candidate] = {}

    def look_at(subnets: Sequence[Subnet]) -> None:
        for subnet, value in zip(subnets, evaluate(subnets) if subnets else (), strict=True):
            found[subnet] = Candidate(subnet, breeder.costs_of(subnet), value)

    fitting = [subnet for subnet in dict.fromkeys(first) if breeder.fits(subnet, limits)]
    look_at(fitting[:evaluations])
    drawn = evaluations if strategy == "random" else max(_LEAST_DRAWN, round(_DRAWN * evaluations))
    number = len(found)
    while number < evaluations:
        breeds = number >= drawn
        least = _BROOD if breeds else drawn - number
        parents, brood = list(found.values()) if breeds else [], dict[Subnet, None]()
        for _ in range(min(least, evaluations - number)):
            within = breeder.draw_limits(bounds)
            subnet = breeder.propose(within, parents, {**found, **brood})
            if subnet not in found:
                brood[subnet] = None
            number += 1
        look_at(list(brood))
    return list(found.values())


class Breeder:
    """Makes subnets that keep their limits.

    A subnet is a row of genes, each the place of a choice among the sorted ones: embedding, depth,
    and the ratio and the heads of as many layers as the deepest subnet has. Genes of layers that a
    subnet lacks are carried along unused.
    """

    def __init__(self, space: SearchSpace, costs: Costs, generator: random.Random) -> None:
        self._space = space
        self._costs = costs
        self._generator = generator
        self._embeds, self._depths = sorted(space.embed_dims), sorted(space.depths)
        self._ratios, self._heads = sorted(space.ratios), sorted(space.heads)
        self._most = self._depths[-1]
        sizes = [len(self._embeds), len(self._depths)]
        self._sizes = sizes + [len(self._ratios)] * self._most + [len(self._heads)] * self._most

    def costs_of(self, subnet: Subnet) -> dict[str, float]:
        """Return every cost of ``subnet``."""
        return {name: cost(subnet) for name, cost in self._costs.items()}

    def fits(self, subnet: Subnet, limits: Mapping[str, float]) -> bool:
        """Say whether ``subnet`` keeps ``limits``."""
        return all(self._costs[name](subnet) <= limit for name, limit in limits.items())

    def draw_limits(self, bounds: Mapping[str, float]) -> dict[str, float]:
        """Return ``bounds``, or limits between what the smallest subnet costs and them."""
        share = 1.0 if self._generator.random() < _FULL else self._generator.random()
        least = self.costs_of(self._space.smallest)
        if share == 1.0:
            return dict(bounds)
        return {name: least[name] + share * (bounds[name] - least[name]) for name in bounds}

    def propose(
        self,
        limits: Mapping[str, float],
        candidates: Sequence[Candidate] = (),
        known: Mapping[Subnet, Any] | None = None,
    ) -> Subnet:
        """Return a subnet within ``limits``: a child of the best ``candidates``, or drawn.

        It is one of ``known`` only where a few attempts all ended in such a one.
        """
        within = [c for c in candidates if all(c.costs[k] <= limits[k] for k in limits)]
        parents = nsmallest(_PARENTS, within, key=lambda c: -c.value)
        for attempt in range(1, _ATTEMPTS + 1):
            genes = self._child([c.subnet for c in parents]) if parents else self._draw()
            subnet = self._shrink(genes, limits)
            if subnet not in (known or {}) or attempt == _ATTEMPTS:
                return subnet
        raise AssertionError("the last attempt returns")

    def _draw(self) -> list[int]:
        return [self._generator.randrange(size) for size in self._sizes]

    def _child(self, parents: Sequence[Subnet]) -> list[int]:
        """Return genes of one or two of ``parents``, some of them changed."""
        genes = self._genes(self._generator.choice(parents))
        if self._generator.random() < _CROSSED:
            other = self._genes(self._generator.choice(parents))
            genes = [self._generator.choice(pair) for pair in zip(genes, other, strict=True)]
        free = [i for i in self._used(genes) if self._sizes[i] > 1]
        changed = [i for i in free if self._generator.random() < 1 / len(free)]
        for i in changed or self._generator.sample(free, min(1, len(free))):
            others = [choice for choice in range(self._sizes[i]) if choice != genes[i]]
            genes[i] = self._generator.choice(others)
        return genes

    def _shrink(self, genes: list[int], limits: Mapping[str, float]) -> Subnet:
        """Move genes down, whichever the draw falls on, until the subnet keeps ``limits``."""
        while not self.fits(subnet := self._subnet(genes), limits):
            movable = [i for i in self._used(genes) if genes[i]]
            if not movable:
                raise ValueError(f"Breeder: the smallest subnet does not keep {dict(limits)}.")
            genes[self._generator.choice(movable)] -= 1
        return subnet

    def _used(self, genes: Sequence[int]) -> list[int]:
        depth = self._depths[genes[1]]
        ratios = range(2, 2 + depth)
        return [0, 1, *ratios, *(i + self._most for i in ratios)]

    def _subnet(self, genes: Sequence[int]) -> Subnet:
        dim, depth = self._embeds[genes[0]], self._depths[genes[1]]
        ratios, heads = genes[2 : 2 + depth], genes[2 + self._most :][:depth]
        widths = tuple(ffn_dim(dim, self._ratios[i]) for i in ratios)
        return Subnet(dim, tuple(self._heads[i] for i in heads), widths, self._space.stored)

    def _genes(self, subnet: Subnet) -> list[int]:
        """Return the genes of ``subnet``; those of layers that it lacks are drawn."""
        genes = self._draw()
        genes[0] = self._embeds.index(subnet.embed_dim)
        genes[1] = self._depths.index(subnet.depth)
        widths = [ffn_dim(subnet.embed_dim, ratio) for ratio in self._ratios]
        layers = zip(subnet.heads, subnet.ffn_dims, strict=True)
        for i, (heads, inner) in enumerate(layers, start=2):
            genes[i] = widths.index(inner)
            genes[i + self._most] = self._heads.index(heads)
        return genes
