"""`auscult pretrain`: make the encoders that are measured, from nothing or from a teacher."""

from pathlib import Path
from typing import Annotated, Any

import typer

from auscult.cli.output import (
    MOST_SEED,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
)
from auscult.device import choose_device
from auscult.whole_file import expect_folder

Family = Annotated[
    str,
    typer.Argument(help="mockingjay, audio_albert, hubert, distilhubert, lighthubert or w2v_bert."),
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to the preset.")
]
Corpora = Annotated[
    list[str],
    typer.Option(
        "-c",
        "--corpus",
        help="Corpus (reader:folder, or reader:folder#split_column), or a folder of audio; "
        "repeatable.",
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file of KEY = VALUE, before the others.")
]
Preset = Annotated[
    str, typer.Option(help="published, or tiny and small, which are made for a CPU.")
]
Splits = Annotated[
    str, typer.Option(help="Splits of the corpora to train on, such as train,dev; or all.")
]


def pretrain(
    family: Family,
    corpus: Corpora,
    out: Annotated[Path, typer.Option("--out", help="Folder for the encoder and checkpoints.")],
    settings: Settings = None,
    config: Config = None,
    preset: Preset = "published",
    splits: Splits = "train",
    seed: Annotated[
        int, typer.Option(help="Seed of weights, masks and order.", min=0, max=MOST_SEED)
    ] = 0,
    skip_bad: SkipBad = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration and size, and stop.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain or distil an encoder on unlabelled speech.

    The result loads at once as FAMILY:OUT. Run the same command again to go on after a kill: the
    weights end as if nothing had happened. Ctrl-C keeps the step that it comes in (a second one
    stops at once, and so does one to several processes). OUT receives the encoder, training.json,
    curve.jsonl, TensorBoard's curves and checkpoints.

    Examples:
      auscult pretrain mockingjay -c demo --preset tiny --out models/mockingjay
      auscult pretrain lighthubert -c ~/audio --preset tiny teacher=hubert:M --out models/stage1
      torchrun --nproc_per_node 2 -m auscult pretrain hubert -c tsv:data/mine --out models/hubert
    """
    from auscult.memory import within_memory
    from auscult.pretraining import pretrain as train
    from auscult.process import Processes
    from auscult.record import fingerprint
    from auscult.speech_pool import SpeechPool
    from auscult.studies import pretraining
    from auscult.training_run import Run
    from auscult.upstreams.pretraining import find_pretraining

    expect_folder(out)
    processes = Processes.of_environment()
    output = Output(json=json, quiet=quiet or not processes.leads)
    row = find_pretraining(family)
    training = row.configure(preset, [*pretraining._assignments(config), *(settings or [])])
    where = processes.device(choose_device(device))
    with processes.joined(where):
        with processes.leader_first():
            read = [pretraining._read(spec, splits, skip_bad) for spec in corpus]
            cuts = [cut for found, _ in read for cut in found]
            with within_memory("These sizes need more memory than there is; lower them."):
                objective = row.build(training, seed)
        pool = SpeechPool.of(
            cuts,
            crop_seconds=training.crop_seconds,
            batch_seconds=training.batch_seconds,
            seed=seed,
        )
        shown = pretraining._describe(training, objective, cuts)
        if dry_run:
            return _show(output, family, shown)
        pretraining._announce(training, shown, preset, where)
        about = {"family": family, "corpora": " ".join(corpus), "splits": splits}
        steps = train(
            Run(
                objective=objective,
                config=training,
                pool=pool,
                seed=seed,
                folder=out,
                about=about,
                reads={"audio": fingerprint([hashes for _, hashes in read])},
                device=where,
                processes=processes,
            )
        )
    if processes.leads:
        address = row.loads_as.format(out)
        output.print(
            f"All {training.total_steps} steps are made, {steps} of them now; load it as {address}"
        )
        output.finish(upstream=address, steps=steps, **shown)


def _show(output: Output, family: str, shown: dict[str, Any]) -> None:
    output.table(f"pretraining {family}", ["key", "value"], [[k, v] for k, v in shown.items()])
    output.finish(**shown)
