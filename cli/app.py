"""The table of verbs."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated

import typer

from auscult.cli import (
    attention,
    compare,
    corpora,
    demo,
    describe,
    extract,
    finetune,
    pretrain,
    probe,
    probes,
    report,
    results,
    run,
    subnet,
    subnet_search,
    superb,
    superb_run,
    tasks,
    upstreams,
)

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


def _verb(name: str, function: Callable[..., None], to: typer.Typer = app) -> None:
    """Add a verb; its docstring is its help page, with the lines of the examples kept."""
    page = inspect.cleandoc(function.__doc__ or "")
    to.command(name, help=re.sub(r"\n\n(Examples?:)", "\n\n\b\n\\1", page))(function)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Benchmark and probe self-supervised speech encoders."""


# One line for each verb: _verb("name", module.function), in the order of the help page.
_verb("demo", demo.demo)
_verb("corpora", corpora.corpora)
_verb("upstreams", upstreams.upstreams)
_verb("check", upstreams.check)
_verb("describe", describe.describe)
_verb("extract", extract.extract)
_verb("probe", probe.probe)
_verb("attention", attention.attention)
_verb("pretrain", pretrain.pretrain)
_verb("finetune", finetune.finetune)
_verb("tasks", tasks.tasks)
_verb("probes", probes.probes)
_verb("run", run.run)
_verb("report", report.report)

_results = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(_results, name="results", help="List, show, export and compare results.")
_verb("ls", results.ls, _results)
_verb("show", results.show, _results)
_verb("export", results.export, _results)
_verb("compare", compare.compare, _results)

_subnet = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    _subnet, name="subnet", help="Count, show, draw, search and cut out the subnets of a supernet."
)
_verb("count", subnet.count, _subnet)
_verb("show", subnet.show, _subnet)
_verb("sample", subnet.sample, _subnet)
_verb("search", subnet_search.search, _subnet)
_verb("export", subnet.export, _subnet)

_superb = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    _superb, name="superb", help="All of SUPERB: run it, see results beside published ones, submit."
)
_verb("run", superb_run.run_, _superb)
_verb("table", superb.table, _superb)
_verb("zip", superb.zip_, _superb)
_verb("check", superb.check, _superb)
