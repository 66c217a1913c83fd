"""`auscult pretrain`: make the encoders that are measured, from nothing or from a teacher."""

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.option import Limit
from auscult.cli.output import (
    MOST_SEED,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
)

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
    limit: Limit = None,
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
    from auscult import studies
    from auscult.process import Processes

    leads = Processes.of_environment().leads
    output = Output(json=json, quiet=quiet or not leads)
    found = studies.pretrain(
        family,
        corpus,
        out=out,
        settings=settings or [],
        config=config,
        preset=preset,
        splits=splits,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        dry_run=dry_run,
        device=device,
    )
    shown = found.configuration
    if leads and dry_run:
        output.table(f"pretraining {family}", ["key", "value"], [[k, v] for k, v in shown.items()])
        output.finish(**shown)
    elif leads:
        output.print(
            f"All {shown['total_steps']} steps are made, {found.steps} of them now; load it as "
            f"{found.upstream}"
        )
        output.finish(**found.to_dict())
