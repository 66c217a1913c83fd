"""`auscult probes`: what reads hidden states, and what it can be asked to read."""

from auscult.cli.option import show_installed
from auscult.cli.output import Json, Output, Quiet


def probes(json: Json = False, quiet: Quiet = False) -> None:
    """List the probes of `auscult probe` and the tasks that they read, installed packages' too.

    Examples:
      auscult probes
      auscult probes --json
    """
    from auscult.probing import HIDDEN, PATTERNS, PROBE_TABLE, PROBES, TASK_TABLE, TASKS

    output = Output(json=json, quiet=quiet)
    output.table(
        "Probes: --probe of auscult probe",
        ("probe", "what it is"),
        [(name, _shape(layers, HIDDEN)) for name, layers in PROBES.items()],
    )
    installed = show_installed(output, PROBE_TABLE)
    known = [
        (name, "one label a frame" if task.frames else "one label an utterance", task.label)
        for name, task in TASKS.items()
    ]
    output.table(
        "Probing tasks: -t, --task of auscult probe",
        ("task", "what is read", "label of the corpus"),
        [*known, *((name, what, "") for name, what in PATTERNS.items())],
    )
    output.finish(
        probes={name: {"hidden_layers": layers} for name, layers in PROBES.items()},
        installed=installed,
        tasks=[*TASKS, *PATTERNS],
        installed_tasks=show_installed(output, TASK_TABLE),
    )


def _shape(layers: int, width: int) -> str:
    """Say what a probe with so many hidden layers is."""
    hidden = f"{layers} hidden layer{'s' * (layers > 1)} of {width}, then " if layers else ""
    return f"{hidden}one linear layer"
