"""An encoder that is trained with its head: what changes, what must not, and what is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from auscult.downstreams import training
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.keyword_spotting import KeywordSpotting, KeywordSpottingConfig
from auscult.downstreams.split import LabelledCorpus, label_corpus
from auscult.upstreams import load_upstream

CONFIG = KeywordSpottingConfig(
    total_steps=4,
    batch_size=6,
    learning_rate=0.01,
    eval_step=2,
    save_step=2,
    projector_dim=8,
)


@pytest.fixture
def labelled(words: Any) -> LabelledCorpus:
    return label_corpus(words, "keyword")


def _upstream(encoder: Any, labelled: LabelledCorpus, folder: Path) -> CorpusUpstream:
    return CorpusUpstream(
        encoder, labelled, budget=10**9, device="cpu", folder=folder / "cache", finetune=True
    )


def _fit(upstream: CorpusUpstream, labelled: LabelledCorpus, folder: Path) -> Any:
    return training.fit_head(
        upstream,
        lambda dim: KeywordSpotting(dim, labelled, CONFIG, 0),
        CONFIG,
        task="keyword_spotting",
        seed=0,
        device="cpu",
        folder=folder,
    )


def _copy(encoder: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in encoder.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["random(hubert_tiny)", "random(w2v_bert_tiny)"])
def test_the_encoder_learns_and_the_one_that_was_given_does_not(
    name: str, labelled: LabelledCorpus, tmp_path: Path
) -> None:
    encoder = load_upstream(name)
    before = _copy(encoder)
    upstream = _upstream(encoder, labelled, tmp_path)
    done = _fit(upstream, labelled, tmp_path)
    assert upstream.finetuned and not (tmp_path / "cache").exists()
    assert _equal(_copy(encoder), before) and not encoder.training
    trained = done.upstream.model.encoder
    moved = [
        key for key, value in trained.named_parameters() if not torch.equal(value, before[key])
    ]
    assert len(moved) > len(list(encoder.parameters())) / 2
    states = torch.load(tmp_path / "states-4.ckpt", weights_only=True)
    for kept in (states, states["Best"]):
        assert kept["Featurizer"] and kept["Downstream"]
        assert {f"encoder.{key}" for key in moved} <= kept["Upstream"].keys()
    result = done.result()
    assert len(result.answers["id"]) == 24


def test_killed_and_resumed_gives_the_same_bits(
    labelled: LabelledCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_upstream("random(hubert_tiny)")
    upstream = _upstream(encoder, labelled, tmp_path)
    straight = _fit(upstream, labelled, tmp_path / "straight").result()
    whole = training.HeadTraining._step

    def step(self: Any, number: int, *others: Any) -> float:
        if number == 4:
            raise KeyboardInterrupt
        return whole(self, number, *others)

    with monkeypatch.context() as context:
        context.setattr(training.HeadTraining, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            _fit(upstream, labelled, tmp_path / "killed")
    resumed = _fit(upstream, labelled, tmp_path / "killed").result()
    one, two = (
        torch.load(tmp_path / name / "states-4.ckpt", weights_only=True)
        for name in ("straight", "killed")
    )
    assert _equal(one["Upstream"], two["Upstream"]) and straight.answers == resumed.answers


def test_dropout_is_on_in_training_and_off_in_evaluation(
    labelled: LabelledCorpus, tmp_path: Path
) -> None:
    encoder = load_upstream("random(hubert_tiny)")
    upstream = _upstream(encoder, labelled, tmp_path).for_training()
    batch = labelled.splits["train"].utterances[:2]
    upstream.train()
    first, second = upstream(batch)["last_hidden_state"], upstream(batch)["last_hidden_state"]
    assert first.requires_grad and not torch.equal(first, second)
    upstream.eval()
    first, second = upstream(batch)["last_hidden_state"], upstream(batch)["last_hidden_state"]
    assert torch.equal(first, second)


def test_an_encoder_without_weights_stays_frozen(labelled: LabelledCorpus, tmp_path: Path) -> None:
    upstream = _upstream(load_upstream("log_mel"), labelled, tmp_path)
    assert not upstream.finetuned and upstream.for_training() is upstream
    assert (tmp_path / "cache").exists()
