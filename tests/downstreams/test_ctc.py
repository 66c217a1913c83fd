"""Sequences by CTC: the data, the protocols, and that the heads learn."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import auscult
from auscult.bridge import repair
from auscult.contracts import SAMPLE_RATE
from auscult.downstreams import find_task
from auscult.downstreams.ctc import HALVED_ABOVE, CTCExpert, at_frames, character_errors
from auscult.downstreams.ctc import word_errors as errors_of
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.phoneme_recognition import (
    PhonemeRecognition,
    PhonemeRecognitionConfig,
    read_lexicon,
)
from auscult.downstreams.phoneme_recognition import prepare as prepare_phones
from auscult.downstreams.phoneme_recognition import score as score_phones
from auscult.downstreams.speech_recognition import SpeechRecognition, SpeechRecognitionConfig
from auscult.downstreams.speech_recognition import prepare as prepare_characters
from auscult.downstreams.speech_recognition import score as score_characters
from auscult.downstreams.text import spelled
from auscult.downstreams.training import HeadTraining, train_head
from auscult.errors import UserError
from auscult.progress import logger

STRIDE = 320
PITCH = {"AA1": 300.0, "IY0": 1500.0, "S": 4000.0}
LETTER = {"AA1": "a", "IY0": "i", "S": "s"}
SPLIT_OF = {0: "train", 1: "train", 2: "dev", 3: "test"}
SHORT = PhonemeRecognitionConfig(
    label="phones",
    total_steps=75,
    batch_size=4,
    gradient_accumulate_steps=1,
    learning_rate=0.1,
    eval_step=25,
    save_step=75,
)


def edits(a: Any, b: Any) -> int:
    """Return the Levenshtein distance by its definition; tests only."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tsv corpus of 8 speakers who say three "phones" in two words, tones of whole frames."""
    folder = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    header = ("path", "utt", "speaker", "split", "transcript", "phones", "slot_tags")
    rows = ["\t".join(header)]
    for speaker in range(8):
        for take in range(8):
            utt = f"s{speaker}-{take}"
            names = [list(PITCH)[i] for i in generator.integers(3, size=3)]
            frames = [np.arange(STRIDE * int(n)) for n in generator.integers(5, 9, size=3)]
            waves = [
                np.sin(2 * np.pi * PITCH[name] * time / SAMPLE_RATE)
                for name, time in zip(names, frames, strict=True)
            ]
            silence = np.zeros(STRIDE * 2)  # parts a phone from its repetition
            parts = [part for wave in waves for part in (0.3 * wave, silence)]
            wave = np.concatenate(parts)
            wave = wave + 0.01 * generator.standard_normal(len(wave))
            soundfile.write(folder / f"{utt}.flac", wave, SAMPLE_RATE)
            letters = "".join(LETTER[name] for name in names)
            text = f"{letters[:2]} {letters[2:]}."
            phones = " ".join(["sil", *names[:2], "|", *names[2:]])
            cells = (f"{utt}.flac", utt, f"s{speaker}", SPLIT_OF[speaker % 4], text, phones)
            rows.append("\t".join((*cells, "O B-second")))
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    return auscult.corpus(f"tsv:{folder}")


def train(expert: Any, labelled: Any, config: Any, encoder: Any, folder: Path) -> Any:
    """Train a head for as long as ``config`` says."""
    upstream = CorpusUpstream(encoder, labelled, budget=10**9, device="cpu")
    return train_head(
        upstream,
        lambda dim: expert(dim, labelled, config, 0),
        config,
        task=expert.__name__,
        seed=0,
        device="cpu",
        folder=folder,
    )


def changed(corpus: Any, split: str, **changes: Any) -> Any:
    """Return the corpus with another supervision on the first utterance of a split."""
    first, *others = corpus.split(split)
    custom = first.supervisions[0].custom | changes.pop("custom", {})
    supervision = replace(first.supervisions[0], custom=custom, **changes)
    cuts = [replace(first, supervisions=[supervision]), *others]
    return replace(corpus, splits={**corpus.splits, split: cuts})


def test_the_defaults_are_superb() -> None:
    protocols = {
        name: (
            config.total_steps,
            config.batch_size * config.gradient_accumulate_steps,
            config.learning_rate,
            config.eval_step,
            config.projector_dim,
            config.specaugment,
        )
        for name in ("phoneme_recognition", "speech_recognition", "slot_filling")
        for config in [find_task(name).config()]
    }
    assert protocols == {
        "phoneme_recognition": (100_000, 32, 1e-2, 1_000, 256, False),
        "speech_recognition": (200_000, 32, 1e-4, 2_000, 1_024, True),
        "slot_filling": (200_000, 32, 1e-4, 2_000, 1_024, True),
    }


def test_heads_have_the_size_of_s3prls(tones: Any) -> None:
    labelled = prepare_characters(tones, SpeechRecognitionConfig(), skip_unlabelled=False)
    # s3prl's: 28 characters, blank, <eos>, <pad> and <unk>, on 16 dimensions 42.06 million
    alphabet = replace(labelled, classes=tuple("|ETAONIHSRDLUMCWFGYPBVK'XJQZ") + ("a", "b", "c"))
    config = SpeechRecognitionConfig(batch_size=8)
    head = SpeechRecognition(16, alphabet, config, 0)
    assert sum(p.numel() for p in head.parameters()) == 42_058_784
    phones = replace(labelled, classes=tuple(str(i) for i in range(73)))
    linear = PhonemeRecognition(768, phones, SHORT, 0)
    assert sum(p.numel() for p in linear.parameters()) == 768 * 256 + 256 + 256 * 74 + 74


def test_phones_are_learned_and_scored_on_test(tones: Any, bands: Any, tmp_path: Path) -> None:
    labelled = prepare_phones(tones, SHORT, skip_unlabelled=False)
    assert labelled.classes == ("AA1", "IY0", "S")
    result = train(PhonemeRecognition, labelled, SHORT, bands, tmp_path)
    assert result.answers["id"] == labelled.splits["test"].ids
    (per,) = score_phones(result.answers, labelled)
    assert per.metric == "per" and per.value < 0.1  # what answers nothing scores 1
    assert per.low is not None and per.high is not None and per.low <= per.value <= per.high
    assert (per.num_items, per.num_speakers) == (16, 2)
    assert result.step == max(result.curve, key=lambda point: point[1])[0]


@pytest.mark.slow
def test_characters_are_learned(tones: Any, bands: Any, tmp_path: Path) -> None:
    config = SpeechRecognitionConfig(
        projector_dim=64,
        hidden_dim=64,
        total_steps=120,
        batch_size=4,
        learning_rate=0.02,
        eval_step=40,
        save_step=120,
        specaugment=False,
    )
    labelled = prepare_characters(tones, config, skip_unlabelled=False)
    assert labelled.classes == ("A", "I", "S", "|")
    result = train(SpeechRecognition, labelled, config, bands, tmp_path)
    assert all(text[2] == " " and len(text) == 4 for text in result.answers["target"])
    wer, cer = score_characters(result.answers, labelled)
    assert (wer.metric, cer.metric) == ("wer", "cer")
    assert cer.value < 0.6  # what answers nothing scores 1
    found = errors_of(result.answers["target"], result.answers["prediction"])
    assert wer.value == sum(found[0]) / 32


def test_batches_are_of_similar_length_and_depend_on_seed_and_epoch_alone(tones: Any) -> None:
    labelled = prepare_phones(tones, SHORT, skip_unlabelled=False)
    head = PhonemeRecognition(8, labelled, SHORT, 3)
    torch.rand(5)
    again = PhonemeRecognition(8, labelled, SHORT, 3)
    assert head.get_dataloader("train", epoch=2) == again.get_dataloader("train", epoch=2)
    assert head.get_dataloader("train", epoch=2) != head.get_dataloader("train", epoch=3)
    other = PhonemeRecognition(8, labelled, SHORT, 4)
    assert head.get_dataloader("train", epoch=2) != other.get_dataloader("train", epoch=2)
    batches = head.get_dataloader("train")
    assert len(batches) == len(labelled.splits["train"].cuts)  # as many as there are utterances
    assert {len(ids) for _, ids, _ in batches} == {4}
    drawn = Counter(i for _, ids, _ in batches for i in ids)
    assert set(drawn) == set(labelled.splits["train"].ids)
    lengths = [[len(utterance) for utterance in some] for some, _, _ in batches]
    assert all(row == sorted(row, reverse=True) for row in lengths)
    overall = max(map(max, lengths)) - min(map(min, lengths))
    assert np.mean([row[0] - row[-1] for row in lengths]) < overall / 2
    dev = [i for _, ids, _ in head.get_dataloader("dev") for i in ids]
    assert dev == labelled.splits["dev"].ids


def test_batches_of_long_utterances_are_halved(tones: Any) -> None:
    labelled = prepare_phones(tones, SHORT, skip_unlabelled=False)
    train = labelled.splits["train"]
    longest = max(range(len(train.cuts)), key=lambda i: train.cuts[i].duration)
    cuts = list(train.cuts)
    cuts[longest] = cuts[longest].pad(duration=(HALVED_ABOVE + 1) / SAMPLE_RATE)
    longer = replace(labelled, splits={**labelled.splits, "train": replace(train, cuts=cuts)})
    sizes = Counter(
        len(ids) for _, ids, _ in PhonemeRecognition(8, longer, SHORT, 0).get_dataloader("train")
    )
    assert sizes == {4: 31, 2: 1}


def test_the_loss_is_torchs_and_a_batch_is_its_rows(tones: Any) -> None:
    labelled = prepare_phones(tones, SHORT, skip_unlabelled=False)
    head = PhonemeRecognition(8, labelled, SHORT, 0).eval()
    torch.manual_seed(0)
    features = [torch.randn(n, 8) for n in (40, 33, 25)]
    labels = [("AA1", "AA1", "S"), ("S",), ("IY0", "AA1")]
    whole = head("train", features, ["a", "b", "c"], labels, records={})
    parts = [
        head("train", [row], ["a"], [label], records={})
        for row, label in zip(features, labels, strict=True)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    recognizer = SpeechRecognition(
        8,
        prepare_characters(tones, SpeechRecognitionConfig(), skip_unlabelled=False),
        SpeechRecognitionConfig(projector_dim=16, hidden_dim=8, batch_size=8),
        0,
    ).eval()
    together, _ = recognizer._log_probs(features)
    for row, alone in zip(together, features, strict=True):
        torch.testing.assert_close(row[: len(alone)], recognizer._log_probs([alone])[0][0])


def test_masks_follow_torchs_random_state(tones: Any) -> None:
    labelled = prepare_characters(tones, SpeechRecognitionConfig(), skip_unlabelled=False)
    config = SpeechRecognitionConfig(projector_dim=16, hidden_dim=8, batch_size=8)
    head = SpeechRecognition(64, labelled, config, 0).eval()  # no dropout; masks are by split
    features, label = [torch.randn(60, 64), torch.randn(24, 64)], ("A", "|")

    def loss(rows: Any, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return head("train", rows, ["a"] * len(rows), [label] * len(rows), records={})

    torch.testing.assert_close(loss(features, 1), loss(features, 1), rtol=0, atol=0)
    assert loss(features, 1) != loss(features, 2)
    torch.testing.assert_close(loss(features[1:], 1), loss(features[1:], 2))  # too short for masks
    records: Any = {"id": [], "target": [], "prediction": []}
    state = torch.get_rng_state()
    head("dev", features, ["a", "b"], [label, label], records=records)
    assert torch.equal(state, torch.get_rng_state())
    assert records["target"] == ["A", "A"]


def test_masked_training_that_is_killed_ends_with_the_same_bits(
    tones: Any, bands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SpeechRecognitionConfig(
        projector_dim=8, hidden_dim=8, total_steps=5, batch_size=4, eval_step=2, save_step=2
    )
    labelled = prepare_characters(tones, config, skip_unlabelled=False)
    train(SpeechRecognition, labelled, config, bands, tmp_path / "whole")
    whole = HeadTraining._step

    def step(self: Any, number: int, *others: Any) -> float:
        if number == 4:
            raise KeyboardInterrupt
        return whole(self, number, *others)

    monkeypatch.setattr(HeadTraining, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(SpeechRecognition, labelled, config, bands, tmp_path / "killed")
    monkeypatch.undo()
    train(SpeechRecognition, labelled, config, bands, tmp_path / "killed")
    one, two = (
        torch.load(tmp_path / name / "states-5.ckpt", weights_only=True)["Downstream"]
        for name in ("whole", "killed")
    )
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_greedy_decoding_by_hand(tones: Any) -> None:
    labelled = prepare_phones(tones, SHORT, skip_unlabelled=False)
    head = PhonemeRecognition(8, labelled, SHORT, 0)
    path = torch.tensor([0, 1, 1, 0, 1, 3, 3, 2, 0])  # _ AA AA _ AA S S IY _
    records: Any = {"prediction": []}
    head.decode("dev", torch.nn.functional.one_hot(path, 4).float(), records)
    assert records["prediction"] == ["AA1 AA1 S IY0"]


def test_error_counts_are_levenshteins_and_s3prls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors_of(["a b c", "a"], ["a x c d", ""]) == ([2, 1], [3, 1])
    assert character_errors(["AB C"], ["AC"]) == ([2], [4])
    generator = np.random.default_rng(0)
    texts = [
        " ".join(
            "".join(generator.choice(list("AB"), size=generator.integers(1, 3))) for _ in "abc"
        )
        for _ in range(60)
    ]
    references, hypotheses = texts[:30], [*texts[30:59], "B"]
    stand_in = ModuleType("editdistance")  # s3prl's metrics want it
    stand_in.eval = edits  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "editdistance", stand_in)
    repair()
    from s3prl.metric.common import cer, per, wer

    for ours, theirs in ((errors_of, wer), (errors_of, per), (character_errors, cer)):
        wrong, total = ours(references, hypotheses)
        assert sum(wrong) / sum(total) == pytest.approx(theirs(hypotheses, references))


def test_phones_come_from_alignments_columns_and_lexica(tones: Any, tmp_path: Path) -> None:
    def first(**settings: Any) -> tuple[str, ...]:
        config = replace(SHORT, **settings)
        return prepare_phones(tones, config, skip_unlabelled=False).splits["train"].labels[0]

    cut = next(iter(tones.split("train")))
    written = cut.supervisions[0].custom["phones"].split()
    plain = tuple(phone for phone in written if phone not in ("sil", "|"))
    assert first() == plain and len(plain) == 3
    assert first(silence=True) == ("sil", *plain)
    assert first(stress=False) == tuple(phone.rstrip("012") for phone in plain)
    words = {cut.supervisions[0].text for split in tones.splits.values() for cut in split}
    words = {word for text in words for word in spelled(text).split()}
    lines = [f"{word.lower()} {' '.join(letter * 2 for letter in word)}" for word in sorted(words)]
    (tmp_path / "one.txt").write_text("\n".join([";;; a comment", "", *lines[:4]]) + "\n")
    (tmp_path / "two.txt").write_text("\n".join([*lines, f"{lines[0].split()[0]}(2) ZZ"]) + "\n")
    spoken = spelled(cut.supervisions[0].text).replace(" ", "")
    lexica = f"{tmp_path / 'one.txt'},{tmp_path / 'two.txt'}"
    assert first(lexicon=lexica) == tuple(letter * 2 for letter in spoken)
    with pytest.raises(UserError, match="has words that the lexicon lacks: "):
        first(lexicon=str(tmp_path / "one.txt"))
    with pytest.raises(UserError, match=r"no phones 'phone': its alignments are none, .* phones"):
        first(label="phone")


def test_lexica_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    for line in ("WORD", "WORD 0.99 W ER D"):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match="Line 1 of the lexicon .* expected a word and its"):
            read_lexicon([str(path)])
    with pytest.raises(UserError, match="cannot be read"):
        read_lexicon([str(tmp_path / "none.txt")])
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text("CAFÉ K AE F EY\n", encoding=encoding)
        assert read_lexicon([str(path)]) == {"CAFÉ": ("K", "AE", "F", "EY")}
    path.write_text("GO G OW\nCAFÉ K AE F EY\n", encoding="latin-1")
    with pytest.raises(UserError, match=rf"{path.name}, line 2: the bytes c9 .* no UTF-8 text"):
        read_lexicon([str(path)])


def test_alignments_of_timit_are_targets() -> None:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "timit-sample"
    if not folder.is_dir():
        pytest.skip("needs the shared speech")
    corpus = auscult.corpus(f"tsv:{folder}", split="split_nosa")
    config = replace(SHORT, label="phone39", silence=True)
    labelled = prepare_phones(corpus, config, skip_unlabelled=False)
    column = prepare_phones(corpus, replace(config, label="phones39"), skip_unlabelled=False)
    assert [split.labels for split in labelled.splits.values()] == [
        split.labels for split in column.splits.values()
    ]
    assert len(labelled.classes) == 39 and "sil" in labelled.classes
    without = prepare_phones(corpus, replace(config, silence=False), skip_unlabelled=False)
    assert len(without.classes) == 38


def test_transcripts_are_spelled() -> None:
    libri = "HE'D LEFT 'TIS SAID AT TEN O'CLOCK"
    assert spelled(libri) == libri
    assert (
        spelled("Don\u2019t \u2014 stop!  caf\u00e9,ice-cream '")
        == "DON'T STOP CAF\u00c9 ICE CREAM"
    )
    assert spelled("cafe\u0301") == "CAF\u00c9" and spelled("-- ' --") == ""


def test_missing_targets_are_named_or_left_out_and_counted(tones: Any) -> None:
    broken = changed(tones, "dev", custom={"phones": "sil |"}, text="?")
    name = broken.split("dev")[0].id
    with pytest.raises(UserError, match=rf"dev split: utterance {name} has an empty target \(1 of"):
        prepare_phones(broken, SHORT, skip_unlabelled=False)
    with pytest.raises(UserError, match=f"utterance {name} has no transcript"):
        prepare_characters(broken, SpeechRecognitionConfig(), skip_unlabelled=False)
    labelled = prepare_phones(broken, SHORT, skip_unlabelled=True)
    assert len(labelled.splits["dev"].cuts) == len(tones.split("dev")) - 1
    assert len(labelled.skipped) == 1 and name in labelled.skipped[0]


def test_what_train_lacks_is_announced_and_counts_as_an_error(
    tones: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logger, "warning", said.append)
    labelled = prepare_phones(
        changed(tones, "test", custom={"phones": "S ZH"}), SHORT, skip_unlabelled=False
    )
    assert len(said) == 1 and "test has what train lacks" in said[0] and "ZH" in said[0]
    head = PhonemeRecognition(8, labelled, SHORT, 0)
    (_, ids, labels), *_others = head.get_dataloader("test")
    records: Any = {"id": [], "target": [], "prediction": []}
    head("test", [torch.zeros(9, 8)] * 4, ids, labels, records=records)
    assert records["target"][0] == "S ZH"


def test_targets_without_frames_are_named_or_left_out_and_counted(tones: Any, bands: Any) -> None:
    crowded = " ".join(["S"] * 60)  # sixty and a blank between each two
    broken = changed(tones, "train", custom={"phones": crowded})
    labelled = prepare_phones(broken, SHORT, skip_unlabelled=False)
    name = broken.split("train")[0].id
    with pytest.raises(UserError, match=rf"utterance {name} has \d+ frames .* needs 119 \(1 of 32"):
        at_frames(labelled, SHORT, bands)
    kept = at_frames(labelled, replace(SHORT, drop_crowded=True), bands)
    assert kept.splits["train"].labels == labelled.splits["train"].labels[1:]
    assert len(kept.skipped) == 1 and name in kept.skipped[0]
    fine = prepare_phones(tones, SHORT, skip_unlabelled=False)
    assert at_frames(fine, SHORT, bands) is fine


def test_small_splits_are_refused(tones: Any) -> None:
    labelled = prepare_phones(tones, SHORT, skip_unlabelled=False)
    with pytest.raises(UserError, match="32 utterances, fewer than the batch_size of 64"):
        PhonemeRecognition(8, labelled, replace(SHORT, batch_size=64), 0)
    assert issubclass(PhonemeRecognition, CTCExpert)
