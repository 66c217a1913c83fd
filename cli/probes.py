"""`auscult probes`: what reads hidden states, and what it can be asked to read."""

from auscult.cli.option import show_catalogue
from auscult.cli.output import Json, Output, Quiet


def probes(json: Json = False, quiet: Quiet = False) -> None:
    """List the probes of `auscult probe` and the tasks that they read, installed packages' too.

    Examples:
      auscult probes
      auscult probes --json
    """
    from auscult.studies import catalogue

    show_catalogue(Output(json=json, quiet=quiet), catalogue.probes())
