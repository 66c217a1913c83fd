"""Which learning rate a head is trained with: each is tried in full, and dev chooses.

The learning rate is the one thing that SUPERB allows to be tuned for each upstream, on a
logarithmic grid. Every upstream that is given the same rates has the same budget.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from auscult.errors import UserError
from auscult.progress import logger

from .training import Diverged, HeadTraining

SUPERB_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True, slots=True)
class Trial:
    """One learning rate and what its head scores on dev at its best step."""

    learning_rate: float
    score: float | None  # None where training diverged


def search_learning_rate(
    learning_rates: Sequence[float], fit: Callable[[float], HeadTraining]
) -> tuple[HeadTraining, float, tuple[Trial, ...]]:
    """Train with each rate and return the training that dev prefers, its rate, and all trials.

    Of rates that score the same the first is taken.

    Args:
        learning_rates: What to try.
        fit: Trains a head with the rate that it is given.

    Raises:
        UserError: Training diverged with every rate.
    """
    best: tuple[HeadTraining, float] | None = None
    trials: list[Trial] = []
    for rate in learning_rates:
        try:
            training = fit(rate)
        except Diverged as error:
            logger.warning(f"learning_rate={rate:g}: {error}")
            trials.append(Trial(rate, None))
            continue
        score = training.best.get("Score", -math.inf)  # the leader's alone
        logger.info(f"learning_rate={rate:g}: dev score {score:.4f}.")
        trials.append(Trial(rate, score))
        if best is None or score > best[0].best.get("Score", -math.inf):
            best = training, rate
    if best is None:
        tried = ", ".join(f"{rate:g}" for rate in learning_rates)
        raise UserError(f"Training diverged with every learning rate ({tried}); try lower ones.")
    return *best, tuple(trials)
