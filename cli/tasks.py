"""`auscult tasks`: what encoders can be benchmarked on."""

from auscult.cli.option import show_installed
from auscult.cli.output import Json, Output, Quiet


def tasks(json: Json = False, quiet: Quiet = False) -> None:
    """List the tasks of `auscult run`: metrics, labels that a corpus must have, what trains.

    Examples:
      auscult tasks
      auscult tasks --json
    """
    from dataclasses import asdict

    from auscult.downstreams import TABLE, TASKS

    output = Output(json=json, quiet=quiet)
    output.table(
        "Tasks of auscult run; dev selects by the first metric",
        ("task", "what", "metrics", "labels", "what trains"),
        [
            (
                task.spec.name,
                task.description,
                ", ".join(task.spec.metrics),
                task.labels,
                f"layer weights, {task.head}" if task.trains else f"nothing ({task.head})",
            )
            for task in TASKS.values()
        ],
    )
    installed = show_installed(output, TABLE)
    output.finish(
        installed=installed,
        tasks=[
            {
                **asdict(task.spec),
                "description": task.description,
                "labels": task.labels,
                "trains": task.trains,
                "head": task.head,
                "protocol": asdict(task.config()),
            }
            for task in TASKS.values()
        ],
    )
