"""What a study found: numbers as a table, the best layers, differences, figures, a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.record import Artifact, Record

from .item import Failure, Outcome
from .plan import Plan

if TYPE_CHECKING:
    import pandas as pd

FIRST = (  # columns of to_pandas, in front
    *("upstream", "corpus", "task", "probe", "layer", "seed", "metric", "split"),
    *("value", "low", "high", "majority"),
)
SELECTIVITY = "selectivity"  # a metric: accuracy minus that on a control task, where one was read


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Findings:
    """Records and what belongs to them."""

    outcomes: tuple[Outcome, ...]
    differences: tuple[Artifact, ...] = ()  # from random twins and log-mel
    failures: tuple[Failure, ...] = ()
    files: tuple[Path, ...] = ()  # figures and arrays that were written
    plan: Plan | None = None

    @property
    def records(self) -> tuple[Record, ...]:
        """Return the numbers."""
        return tuple(record for outcome in self.outcomes for record in outcome.records)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Return maps and layer weights."""
        return tuple(artifact for outcome in self.outcomes for artifact in outcome.artifacts)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row a number: what was measured, the value and its interval, and its key."""
        import pandas as pd

        selective = {_reader(r): r.value for r in self.records if r.metric == SELECTIVITY}
        rows: list[dict[str, Any]] = []
        for record in self.records:
            rows.append({**record.to_dict(), "key": record.key})
            if selective:
                mine = record.metric == "accuracy"
                rows[-1][SELECTIVITY] = selective.get(_reader(record)) if mine else None
        frame = pd.DataFrame(rows)
        first = [*FIRST, *([SELECTIVITY] if selective else [])]
        return frame[[*first, *(name for name in frame if name not in first)]] if rows else frame

    def best(self) -> "pd.DataFrame":
        """Return one row for each task, encoder and probe: the layer that dev prefers, on test."""
        import pandas as pd

        from auscult.results.table import BEST_COLUMNS, best_rows

        return pd.DataFrame(best_rows(self.records), columns=list(BEST_COLUMNS))

    def compared(self) -> "pd.DataFrame":
        """Return one row for each difference, with its interval."""
        import pandas as pd

        from auscult.results import difference
        from auscult.results.curve import gather

        found = difference.differences(self.differences, gather(self.records))
        return pd.DataFrame(difference.difference_rows(found), columns=list(difference.COLUMNS))

    def plot(self, path: str | Path, metric: str = "accuracy") -> Path:
        """Draw the scores over layers; the name's ending chooses the format, png by default."""
        from auscult.results.figure.drawing import layer_curves

        layer_curves(self.records, Path(path), metric=metric)
        return Path(path)

    def to_html(self, path: str | Path) -> Path:
        """Write all of it as one self-contained page."""
        from auscult.downstreams import protocols
        from auscult.results.report import write_page

        write_page(self.records, (*self.artifacts, *self.differences), Path(path), protocols)
        return Path(path)

    def save(self, store: str | Path) -> None:
        """Write all of it to a store: a folder, a file, or a SQLAlchemy URL."""
        from auscult.results import open_store

        open_store(store).add(self.records, (*self.artifacts, *self.differences))

    def __repr__(self) -> str:
        """Count what there is; the numbers are in ``to_pandas()`` and ``best()``."""
        counts = {
            "numbers": self.records,
            "arrays": self.artifacts,
            "differences": self.differences,
            "failures": self.failures,
            "files": self.files,
        }
        told = ", ".join(
            f"{len(x):,} {name[: len(name) - (len(x) == 1)]}" for name, x in counts.items() if x
        )
        return f"<{type(self).__name__}: {told or 'nothing was measured'}>"

    def _repr_html_(self) -> str:
        """Show the best layers and the differences in a notebook."""
        parts: Sequence[str] = [
            f"<p>{title}</p>{frame.to_html(index=False, border=0)}"
            for title, frame in (
                ("Best layer by dev, scored on test", self.best()),
                ("Differences of accuracies, on the same resamples of speakers", self.compared()),
            )
            if len(frame)
        ]
        if self.failures:
            from html import escape

            parts = [*parts, *(f"<p>{escape(str(failure))}</p>" for failure in self.failures)]
        return "\n".join(parts) or "<p>Nothing was measured.</p>"


def _reader(record: Record) -> tuple[object, ...]:
    """Return which reader of which layer a number is of."""
    return (
        *(record.upstream_sha256, record.corpus_sha256, record.task, record.task_version),
        *(record.probe, record.layer, record.head, record.seed, record.split, record.config_sha256),
    )
