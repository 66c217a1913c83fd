"""The table of verbs."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated

import typer

from auscult.cli import attention, demo, extract, probe

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


def _verb(name: str, function: Callable[..., None]) -> None:
    """Add a verb; its docstring is its help page, with the lines of the examples kept."""
    page = inspect.cleandoc(function.__doc__ or "")
    app.command(name, help=re.sub(r"\n\n(Examples?:)", "\n\n\b\n\\1", page))(function)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Benchmark and probe self-supervised speech encoders."""


# One line for each verb: _verb("name", module.function), in the order of the help page.
_verb("demo", demo.demo)
_verb("extract", extract.extract)
_verb("probe", probe.probe)
_verb("attention", attention.attention)
