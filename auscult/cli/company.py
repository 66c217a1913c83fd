"""The option for the company that every accuracy keeps."""

from typing import Annotated

import typer

Baselines = Annotated[
    bool,
    typer.Option("--baselines/--no-baselines", help="Add log_mel and each encoder's random twin."),
]
