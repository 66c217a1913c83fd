"""Budgets, and the subnet that makes the most of one, found without listing a whole space."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import combinations_with_replacement, product

from auscult.errors import UserError

from .space import SearchSpace, Subnet, ffn_dim

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def read_limit(what: str, sign: str, limit: str) -> Decimal:
    """Return the number of a budget such as ``params<=40M``.

    Raises:
        UserError: Not an upper limit, or no number.
    """
    if sign != "<=":
        raise UserError(f"a budget is an upper limit: write {what}<={limit}.")
    form = r"(\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)\s*([KMGT]?)"
    number = re.fullmatch(form, limit, re.IGNORECASE)
    if not number:
        raise UserError(f"budget {limit[:40]!r} is no number; expected such as 40M, 800G or 1e9.")
    return Decimal(number[1]) * _UNITS[number[2].upper()]


def largest_within(space: SearchSpace, budget: int, count: Callable[[Subnet], int]) -> Subnet:
    """Return the subnet that costs most among those that cost no more than ``budget``.

    Of several that cost the same it is the one with the widest embedding, then the most layers,
    then the most heads, then the most even ones. Layers grow from the first to the last: the cost
    does not depend on their order.

    Args:
        space: Where to look.
        budget: At least what the smallest subnet costs.
        count: What a subnet costs: something for its width, and for each layer something for its
            heads and something for its feed-forward part.
    """
    best = space.smallest
    best_rank: tuple[int, ...] = (0,)
    for embed_dim in space.embed_dims:
        widths = [ffn_dim(embed_dim, ratio) for ratio in space.ratios]
        without = count(Subnet(embed_dim, (), (), space.stored))
        layer = count(Subnet(embed_dim, (0,), (0,), space.stored))
        attention = {
            h: count(Subnet(embed_dim, (h,), (0,), space.stored)) - without for h in space.heads
        }
        feed_forward = {
            w: count(Subnet(embed_dim, (0,), (w,), space.stored)) - layer for w in widths
        }
        for depth in space.depths:
            pairs = product(_sums(attention, depth).items(), _sums(feed_forward, depth).items())
            for (heads_cost, heads), (ffn_cost, ffn_dims) in pairs:
                cost = without + heads_cost + ffn_cost
                rank = (cost, embed_dim, depth, sum(heads))
                if cost <= budget and rank > best_rank:
                    best, best_rank = Subnet(embed_dim, heads, ffn_dims, space.stored), rank
    return best


def _sums(costs: Mapping[int, int], depth: int) -> dict[int, tuple[int, ...]]:
    """Return all costs that ``depth`` choices add up to, each with the most even choices."""
    found: dict[int, tuple[int, ...]] = {}
    for chosen in combinations_with_replacement(sorted(costs), depth):
        cost = sum(costs[choice] for choice in chosen)
        if cost not in found or _spread(chosen) < _spread(found[cost]):
            found[cost] = chosen
    return found


def _spread(chosen: tuple[int, ...]) -> int:
    """Return a number that is least where ``chosen``, of a given sum, are most even."""
    return sum(choice * choice for choice in chosen)
