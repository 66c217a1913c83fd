"""`auscult finetune`: a pretrained encoder learns to transcribe."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    command_line,
)
from auscult.device import choose_device

if TYPE_CHECKING:
    from auscult.record import Record

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
    import auscult
    from auscult.dataset import check_speakers
    from auscult.pretraining import pretrain
    from auscult.process import Processes
    from auscult.speech_pool import SpeechPool
    from auscult.studies import finetuning
    from auscult.studies.bench import Bench
    from auscult.training_run import Run, check_settings, other_code
    from auscult.upstreams.w2v_bert.finetuning import build
    from auscult.watch import check_content

    processes = Processes.of_environment()
    output = Output(json=json, quiet=quiet or not processes.leads)
    config = finetuning._configure(preset, settings or [])
    folder = finetuning._encoder_folder(upstream)
    where = processes.device(choose_device(device))
    bench = Bench(out=out, store=store, device=where, processes=processes)
    origin = bench.provenance(command_line())
    with processes.joined(where):
        with processes.leader_first():
            found = auscult.corpus(corpus, split=split, skip_bad=skip_bad)
            check_speakers(found, allow_shared_speakers)
            labelled = finetuning._transcribed(found, skip_bad)
            finetuning._check_lengths(labelled, config)
            train, dev = (finetuning._texts(labelled, name) for name in ("train", "dev"))
            transcripts = {str(cut.id): text for cut, text in train}
            objective = build(folder, transcripts, dev, config, seed)
            encoder = auscult.load(upstream).spec
        pool = SpeechPool.of(
            [cut for cut, _ in train],
            crop_seconds=config.crop_seconds,
            batch_seconds=config.batch_seconds,
            seed=seed,
        )
        run = Run(
            objective=objective,
            config=config,
            pool=pool,
            seed=seed,
            folder=out,
            about={"upstream": upstream, "corpus": corpus, "split": found.split_column},
            reads={"upstream": encoder.sha256} | {s: found.sha256[s] for s in ("train", "dev")},
            also_read=[cut for cut, _ in dev],
            device=where,
            processes=processes,
        )
        check_settings(run)
        if processes.leads:
            bench.prepare()
        steps = pretrain(run)
        if not processes.leads:
            return
        if before := other_code(run):
            origin = replace(origin, code_version=f"{origin.code_version}, trained by {before}")
        finetuned = finetuning._Finetuned(
            encoder, out, found, labelled, config, seed, where, origin
        )
        records = finetuned.score(beam)
        check_content([cut for split in ("dev", "test") for cut in labelled.splits[split].cuts])
    bench.save(records, [])
    columns = ["split", "beam", "metric", "value", "low", "high", "num_items", "num_speakers"]
    rows = [[_shown(_cell(record, column)) for column in columns] for record in records]
    output.table(f"{upstream} on {corpus}", columns, rows)
    output.print(f"{steps} steps made; the encoder as it is now loads as w2v_bert:{out}")
    output.finish(records, upstream=f"w2v_bert:{out}", steps=steps)


def _cell(record: "Record", column: str) -> object:
    return record.config["beam"] if column == "beam" else getattr(record, column)


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
