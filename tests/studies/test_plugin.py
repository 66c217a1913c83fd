"""Other people's code in the studies: what it changes is measured anew, and records name it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import auscult
import auscult.studies as studies
from auscult.errors import UserError
from auscult.studies.desk import Desk

FILES = {
    "encoder.py": """
from torch import nn
class Encoder(nn.Conv1d):
    def __init__(self):
        super().__init__(1, 6, 400, 320)
    def forward(self, waves):
        return super().forward(waves[:, None]).transpose(1, 2)
""",
    "task.py": """
from dataclasses import dataclass
from auscult.contracts import TaskSpec
from auscult.downstreams import HeadTask
from auscult.downstreams.score import classification_scores as score
from auscult.downstreams.utterance import UtteranceConfig, UtteranceExpert, prepare
from auscult.probing import ProbeTask
SPEC = TaskSpec(name="t", version=1, output="utterance", metrics=("accuracy", "macro_accuracy"))
TASK = ProbeTask(SPEC, "length", read=lambda cut: str(cut.duration > 0.31))
@dataclass(frozen=True, slots=True, kw_only=True)
class Config(UtteranceConfig):
    label: str = "keyword"
    total_steps: int = 4
    batch_size: int = 4
    learning_rate: float = 1e-2
    eval_step: int = 2
    save_step: int = 2
HEAD = HeadTask(spec=SPEC, module=__name__, expert="UtteranceExpert", configuration="Config",
    head="linear", labels="keyword", description="a head")
""",
    "probe.py": "from torch import nn\nProbe = nn.Linear\n",
    "corpus.py": "import auscult\ndef read(folder):\n    return auscult.corpus(f'tsv:{folder}')\n",
}


TOO_SHORT = "assert waves.shape[1] not in range(5400, 5500), 'odd'\n        return"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def studied(folder: Path, speech: Path) -> tuple[int, str, list[Any], set[str]]:
    """Probe and train a head; return what was done before, and what was found."""

    def name(file: str, attribute: str) -> str:
        return f"python:{folder}/{file}.py:{attribute}"

    given: dict[str, Any] = {"device": "cpu", "out": folder / "out", "baselines": False}
    both = name("encoder", "Encoder"), f"{name('corpus', 'read')}:{speech}"
    probing = {**given, "probes": [name("probe", "Probe")], "max_epochs": 1}
    done = len(studies.plan_probe(*both, name("task", "TASK"), **probing).done())
    found = studies.probe(*both, name("task", "TASK"), **probing).records[0]
    head = studies.run(*both, name("task", "HEAD"), **given).records[0]
    heads = {path.name for path in (folder / "out/heads").iterdir()}
    libraries = [found.provenance.libraries, head.provenance.libraries]
    return done, found.upstream_sha256, libraries, heads


def test_work_becomes_stale_with_the_code_that_made_it_and_with_no_other(
    folder: Path, tone_corpus: Callable[..., Path]
) -> None:
    speech = tone_corpus(4, 3)
    made, sha256, (probed, trained), heads = studied(folder, speech)
    assert made == 0 and len(heads) == 1
    assert probed.keys() > {"encoder.py", "corpus.py", "task.py", "probe.py"}
    assert trained.keys() > {"encoder.py", "corpus.py", "task.py"}
    assert probed["encoder.py"].startswith("sha256 ")
    (folder / "nobody.py").write_text("x = 1\n")
    (folder / "corpus.py").write_text(FILES["corpus.py"] + "# the same speech\n")
    made, again, _, same = studied(folder, speech)
    assert made == 1 and again == sha256 and same == heads, "nothing that counts has changed"
    for file, of_encoder, of_head in (
        ("task.py", False, True),
        ("probe.py", False, False),
        ("encoder.py", True, True),
    ):
        (folder / file).write_text((folder / file).read_text() + "# another\n")
        made, now, _, more = studied(folder, speech)
        assert made == 0, file
        assert (now != sha256, len(more) > len(heads)) == (of_encoder, of_head), file
        sha256, heads = now, more


def test_a_task_with_a_function_has_a_name(folder: Path, tone_corpus: Callable[..., Path]) -> None:
    from auscult.probing import resolve_tasks

    (task,) = resolve_tasks(f"python:{folder / 'task.py'}:TASK", [])
    speech = f"tsv:{tone_corpus(4, 3)}"
    live = type(task)(task.spec, "length", read=task.read)
    with pytest.raises(UserError, match="no key of kept work can hold; put it into a file"):
        studies.plan_probe("log_mel", speech, live, device="cpu")


def test_an_object_that_has_an_address_keeps_it(
    folder: Path, tone_corpus: Callable[..., Path]
) -> None:
    address = f"python:{folder / 'encoder.py'}:Encoder"
    speech = f"tsv:{tone_corpus(4, 3)}"
    given: dict[str, Any] = {"device": "cpu", "baselines": False}
    (_, item) = studies.plan_probe(auscult.load(address), speech, "keyword", **given).items
    (_, other) = studies.plan_probe(address, speech, "keyword", **given).items
    assert item.command == other.command and f"-u {address}" in item.command


@pytest.mark.parametrize("executor", ["serial", "local:2"])
def test_what_their_code_raises_is_a_sentence(
    executor: str, folder: Path, tone_corpus: Callable[..., Path], run: Callable[..., Any]
) -> None:
    text = FILES["encoder.py"].replace("return", TOO_SHORT)
    (folder / "encoder.py").write_text(text)
    words = ("probe", "-u", f"python:{folder / 'encoder.py'}:Encoder", "-u", "log_mel")
    words += ("-c", f"tsv:{tone_corpus(4, 3)}", "-t", "keyword", "--no-baselines", "--max-epochs")
    status, _, err = run(*words, "1", "--out", folder / "o", "--executor", executor)
    assert status == 1 and "AssertionError: odd (encoder.py, line 7)" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("file", ["task.py", "probe.py", "encoder.py"])
def test_code_that_changes_after_the_plan_is_refused(
    file: str, folder: Path, tone_corpus: Callable[..., Path]
) -> None:
    words = (f"python:{folder}/encoder.py:Encoder", f"tsv:{tone_corpus(4, 3)}")
    plan = studies.plan_probe(
        *words,
        f"python:{folder}/task.py:TASK",
        probes=[f"python:{folder}/probe.py:Probe"],
        device="cpu",
        baselines=False,
    )
    (folder / file).write_text((folder / file).read_text() + "# another\n")
    fresh = replace(plan, desk=Desk(plan.bench))
    with pytest.raises(UserError, match="(changed since|other weights than when) this was planned"):
        studies.execute(fresh)
