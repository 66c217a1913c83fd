"""`auscult finetune`: a pretrained encoder learns to transcribe."""

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.option import Limit, finish
from auscult.cli.output import (
    MOST_SEED,
    AllowSharedSpeakers,
    CorpusSpec,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    StoreUrl,
)

Encoder = Annotated[str, typer.Argument(help="Encoder to go on with: w2v_bert:FOLDER.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to the preset.")
]


def finetune(
    upstream: Encoder,
    corpus: CorpusSpec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the recogniser and checkpoints.")],
    settings: Settings = None,
    preset: Annotated[
        str, typer.Option(help="published, or tiny, which is made for a CPU.")
    ] = "published",
    beam: Annotated[
        int, typer.Option(help="Hypotheses kept, beside greedy decoding.", min=1, max=1000)
    ] = 4,
    split: SplitColumn = None,
    limit: Limit = None,
    seed: Annotated[
        int, typer.Option(help="Seed of new weights and of the order.", min=0, max=MOST_SEED)
    ] = 0,
    skip_bad: SkipBad = False,
    allow_shared_speakers: AllowSharedSpeakers = False,
    device: Device = "auto",
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a w2v-BERT for speech recognition with an RNN transducer.

    Trains on train, keeps the state that is best on dev, and prints word and character error rates
    on dev and test, of greedy decoding and of beam search, with 95 % intervals. Run the same
    command again to go on after a kill; Ctrl-C keeps the step that it comes in, where there is one
    process. OUT receives the recogniser, whose encoder loads as w2v_bert:OUT, results.sqlite
    (unless --store), dev.jsonl, curve.jsonl and checkpoints.

    Examples:
      auscult finetune w2v_bert:models/w2v-bert -c tsv:data/mine --preset tiny --out models/asr
      auscult finetune w2v_bert:M -c librispeech:LibriSpeech total_steps=50000 --out models/asr
    """
    from auscult import studies
    from auscult.process import Processes
    from auscult.studies.finetuning import COLUMNS

    leads = Processes.of_environment().leads
    output = Output(json=json, quiet=quiet or not leads)
    found = studies.finetune(
        upstream,
        corpus,
        out=out,
        settings=settings or [],
        preset=preset,
        beam=beam,
        split=split,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        allow_shared_speakers=allow_shared_speakers,
        device=device,
        store=store,
    )
    if leads:
        rows = [list(map(_shown, row)) for row in found.rows()]
        output.table(f"{upstream} on {corpus}", COLUMNS, rows)
        output.print(
            f"{found.steps} steps made; the encoder as it is now loads as {found.upstream}"
        )
        finish(output, found, upstream=found.upstream, steps=found.steps)


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
