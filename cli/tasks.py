"""`auscult tasks`: what encoders can be benchmarked on."""

from auscult.cli.option import show_catalogue
from auscult.cli.output import Json, Output, Quiet


def tasks(json: Json = False, quiet: Quiet = False) -> None:
    """List the tasks of `auscult run`: metrics, labels that a corpus must have, what trains.

    Examples:
      auscult tasks
      auscult tasks --json
    """
    from auscult.studies.catalogue import head_tasks

    show_catalogue(Output(json=json, quiet=quiet), head_tasks())
