"""The table of verbs."""

from typing import Annotated

import typer

from auscult.cli import extract, probe

app = typer.Typer(
    name="auscult",
    help="Benchmark and probe self-supervised speech encoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from auscult import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Benchmark and probe self-supervised speech encoders."""


# One line for each verb: app.command("name")(module.function), in the order of the help page.
app.command("extract")(extract.extract)
app.command("probe")(probe.probe)
