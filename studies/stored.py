"""What a store holds, as findings, and the page of all of it."""

from pathlib import Path

from auscult.downstreams import protocols
from auscult.errors import UserError
from auscult.record import Artifact, Record

from .finding import Findings
from .item import Outcome


def findings(
    *stores: str | Path,
    upstream: str | None = None,
    corpus: str | None = None,
    task: str | None = None,
    probe: str | None = None,
    metric: str | None = None,
    split: str | None = None,
) -> Findings:
    """Return what one or more stores hold, as the study that measured it returned it.

    Args:
        stores: Folders, .sqlite files or SQLAlchemy URLs; of a number that several hold the one
            in the last.
        upstream: Only this encoder, as with all that follow.
        corpus: Its address.
        task: Its name.
        probe: Probe or head.
        metric: Its name; differences are of accuracies.
        split: The one that is scored; all, the selecting one too, where None.

    Raises:
        UserError: There is no store, or it cannot be read.
    """
    from auscult.results import difference, open_store
    from auscult.results.artifact import check_artifacts

    if not stores:
        raise UserError("Name a store: the folder that a study was given as out, a file or a URL.")
    fields = {"upstream": upstream, "corpus": corpus, "task": task}
    wanted = {**fields, "probe": probe, "metric": metric, "split": split}
    records: dict[str, Record] = {}
    artifacts: dict[str, Artifact] = {}
    for store in map(open_store, stores):
        records |= {record.key: record for record in store.records(**wanted)}
        artifacts |= {artifact.key: artifact for artifact in store.artifacts(**fields)}
    check_artifacts(list(artifacts.values()))
    differences = [x for x in artifacts.values() if x.kind == difference.KIND]
    others = tuple(x for x in artifacts.values() if x.kind != difference.KIND)
    return Findings(
        outcomes=(Outcome(key="", records=tuple(records.values()), artifacts=others),),
        differences=tuple(difference.fitting(differences, wanted)),
    )


def report(*stores: str | Path, out: str | Path = "report.html") -> Path:
    """Write one page with every number, figure and command of one or more runs.

    The page needs no network and no other file. Results on SUPERB's tasks stand beside published
    ones, those that may not be compared marked *.

    Args:
        stores: Folders, .sqlite files or SQLAlchemy URLs.
        out: The page.

    Raises:
        UserError: The stores hold nothing, or cannot be read.
    """
    from auscult.results import open_store
    from auscult.results.report import write_report

    path = Path(out)
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; expected a file, such as {path}/report.html.")
    write_report([open_store(store) for store in stores], path, protocols)
    return path
