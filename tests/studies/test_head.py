"""Heads that are there: what a plan says of them, and which command's numbers are given."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auscult import studies
from auscult.errors import UserError
from auscult.studies.task import measure

ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<s>\t-0.3
-1.0\t</s>
-0.7\tlow\t-0.3
-0.9\tmid\t-0.3
-1.2\thigh\t-0.3

\\2-grams:
-0.2\t<s> low
-0.2\tlow </s>

\\end\\
"""


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    """Tones whose words are their names."""
    folder = tone_corpus()
    head, *rows = (folder / "MANIFEST.tsv").read_text().splitlines()
    at = head.split("\t").index("keyword")
    spoken = [f"{row}\t{row.split(chr(9))[at]}" for row in rows]
    (folder / "MANIFEST.tsv").write_text("\n".join([f"{head}\ttranscript", *spoken]) + "\n")
    return f"tsv:{folder}"


def _given(out: Path, *settings: str, **more: Any) -> dict[str, Any]:
    settings = ("batch_size=8", *settings)
    return {"settings": settings, "steps": 2, "baselines": False, "out": out, **more}


def _state(toy: Any, corpus: str, task: str, given: dict[str, Any]) -> str:
    (row,) = studies.plan_run(toy, corpus, task, **given).to_dicts()
    return str(row["state"])


def test_a_plan_tells_a_finished_head_from_others(
    corpus: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, task = tmp_path / "out", "keyword_spotting"
    given = _given(out, learning_rates=(0.01, 0.02))
    assert _state(toy, corpus, task, given) == "to do"
    studies.run(toy, corpus, task, **given)
    assert _state(toy, corpus, task, given) == "there"
    for other in (
        {"seed": 1},
        {"limit": 9},
        {"threads": 2},
        {"steps": 3},
        {"precision": "bfloat16"},
    ):
        assert _state(toy, corpus, task, given | other) == "to do", other
    assert _state(toy, corpus, task, _given(out, learning_rates=(0.01,))) == "to do"
    with monkeypatch.context() as patch:
        patch.setattr("auscult.studies.task.made_by", lambda *_: "other code")
        assert _state(toy, corpus, task, given) == "to do"
    states = sorted(out.glob("heads/*/states-*.ckpt"))
    assert len(states) == 2
    for path in states:  # those of the rate that dev did not choose too
        for damage in (b"", path.read_bytes()[:-1000], None):
            content = path.read_bytes()
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            assert _state(toy, corpus, task, given) == "to do"
            path.write_bytes(content)
            assert _state(toy, corpus, task, given) == "there"
    receipts = list((out / ".work").glob("head-*"))
    assert len(receipts) == 1
    content = receipts[0].read_bytes()
    for damage in (b"", content[:-3], content[:900] + b"\0" + content[901:]):
        receipts[0].write_bytes(damage)
        assert _state(toy, corpus, task, given) == "to do"
    found = studies.run(toy, corpus, task, **given)
    assert _state(toy, corpus, task, given) == "there" and found.records
    shutil.move(out, tmp_path / "moved")
    assert _state(toy, corpus, task, _given(tmp_path / "moved", learning_rates=(0.01, 0.02))) == (
        "there"
    )


def test_another_language_model_in_the_same_file_is_another_number(
    corpus: str, toy: Any, tmp_path: Path
) -> None:
    """The head is trained once; what its answers were decoded with stands in the record."""
    pytest.importorskip("flashlight", reason="needs auscult[lm]")
    arpa, task = tmp_path / "words.arpa", "speech_recognition"
    arpa.write_text(ARPA)
    given = _given(tmp_path / "out", "projector_dim=8", "hidden_dim=8", f"lm={arpa}")
    first = studies.run(toy, corpus, task, **given)
    assert _state(toy, corpus, task, given) == "there"
    assert [r.key for r in studies.run(toy, corpus, task, **given).records] == [
        r.key for r in first.records
    ]
    plan = studies.plan_run(toy, corpus, task, **given)
    arpa.write_text(ARPA.replace("-0.7\tlow", "-2.7\tlow"))
    assert _state(toy, corpus, task, given) == "to do"
    with pytest.raises(UserError, match="file that speech_recognition reads is another than when"):
        measure(plan.items[0], plan.desk)
    second = studies.run(toy, corpus, task, **given)
    assert {r.metric for r in second.records} == {"wer", "cer", "wer_lm"}
    assert {r.key for r in first.records}.isdisjoint(r.key for r in second.records)
    hashes = {r.config["lm_sha256"] for r in (*first.records, *second.records)}
    assert len(hashes) == 2 and len(list((tmp_path / "out" / "heads").iterdir())) == 1


def test_another_lexicon_in_the_same_file_is_another_head(
    corpus: str, toy: Any, tmp_path: Path
) -> None:
    lexicon, task = tmp_path / "words.txt", "phoneme_recognition"
    lexicon.write_text("low L OW\nmid M IH D\nhigh HH AY\n")
    given = _given(tmp_path / "out", "projector_dim=8", f"lexicon={lexicon}")
    first = studies.run(toy, corpus, task, **given)
    assert _state(toy, corpus, task, given) == "there"
    lexicon.write_text("low L OW OW\nmid M IH D\nhigh HH AY\n")
    assert _state(toy, corpus, task, given) == "to do"
    second = studies.run(toy, corpus, task, **given)
    assert first.records[0].key != second.records[0].key
    assert len(list((tmp_path / "out" / "heads").iterdir())) == 2


def test_code_that_was_edited_before_a_worker_began_is_refused(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers would be kept as those of the code that the plan was made with."""
    from auscult.studies import divergence, extraction, layer

    out: dict[str, Any] = {"out": tmp_path / "out"}
    plans = {
        layer: studies.plan_probe("tiny_hubert", corpus, "keyword", baselines=False, **out),
        divergence: studies.plan_attention("tiny_hubert", corpus, **out),
        extraction: studies.plan_extract("tiny_hubert", corpus, **out),
        studies.task: studies.plan_run(
            "tiny_hubert", corpus, "keyword_spotting", baselines=False, **out
        ),
    }
    for study, plan in plans.items():
        monkeypatch.setattr(study, "made_by", lambda *_: "other code")
        work = study.write if study is extraction else study.measure
        with pytest.raises(UserError, match="code behind tiny_hubert is another than when"):
            work(plan.items[-1], plan.desk)
