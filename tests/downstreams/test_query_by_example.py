"""Query by example: alignment, term-weighted value, and the search of any corpus."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from auscult.dataset import Corpus, supervision_of, utterance_label
from auscult.downstreams import alignment, find_task, query_by_example
from auscult.downstreams.alignment import match_costs
from auscult.downstreams.detection import (
    BETA,
    Collection,
    average_precisions,
    maximum_value,
    value_score,
)
from auscult.downstreams.query_by_example import QueryByExampleConfig, evaluate, prepare, score
from auscult.downstreams.split import LabelledSplit
from auscult.errors import UserError
from auscult.feature import FeatureStore

Floats = NDArray[np.float64]


def warped(query: Floats, document: Floats) -> float:
    """Subsequence DTW as s3prl's match calls it, in plain Python."""
    distances = np.exp(cdist(query, document, "cosine")) - 1
    low, high = distances.min(1, keepdims=True), distances.max(1, keepdims=True)
    costs = np.zeros(distances.shape[1])
    for row in (distances - low) / np.clip(high - low, 1e-9, None):
        costs = np.array([d + costs[max(j - 2, 0) : j + 1].min() for j, d in enumerate(row)])
    return float(costs.min()) / len(query)


def edges(parts: Sequence[Floats]) -> NDArray[np.int64]:
    return np.append(0, np.cumsum([len(part) for part in parts]))


def tensor(parts: Sequence[Floats]) -> torch.Tensor:
    return torch.tensor(np.concatenate(parts), dtype=torch.float32)


class TestAlignment:
    @pytest.mark.parametrize("cells", [2**24, 1500])
    def test_it_is_the_plain_recursion(self, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alignment, "CELLS", cells)  # documents come in one block or several
        generator = np.random.default_rng(0)
        queries = [generator.normal(size=(n, 6)) for n in (1, 5, 30)]
        documents = [generator.normal(size=(n, 6)) for n in (1, 2, 3, 40, 17)]
        found = match_costs(tensor(queries), edges(queries), tensor(documents), edges(documents))
        expected = [[warped(q, d) for d in documents] for q in queries]
        np.testing.assert_allclose(found, expected, atol=2e-6)  # float32

    @pytest.mark.parametrize(
        ("query", "document", "cost"),
        [
            ((9, 0.7), (20, 0.3), 0.109561040),
            ((30, 0.05), (40, 0.11), 0.010820457),
            ((6, 0.2), (2, 0.9), 0.166666667),
        ],
    )
    def test_it_is_what_s3prl_computes(
        self, query: tuple[int, float], document: tuple[int, float], cost: float
    ) -> None:
        """Costs of s3prl 0.4.18's ``match`` with dtw-python 1.9.0."""

        def wave(frames: int, speed: float) -> Floats:
            return np.sin(speed * np.arange(frames * 4) ** 1.3).reshape(frames, 4)

        one, two = [wave(*query)], [wave(*document)]
        found = match_costs(tensor(one), edges(one), tensor(two), edges(two))
        assert float(found[0, 0]) == pytest.approx(cost, abs=2e-6)

    def test_a_query_is_found_where_it_is(self) -> None:
        generator = np.random.default_rng(1)
        query = generator.normal(size=(12, 6))
        slow = np.repeat(query, 2, axis=0)
        around = [generator.normal(size=(20, 6)) for _ in range(3)]
        documents = [np.vstack([around[0], slow, around[1]]), around[2]]
        found = match_costs(tensor([query]), edges([query]), tensor(documents), edges(documents))
        assert found[0, 0] < 1e-4 < 0.05 < found[0, 1]


class TestDetection:
    def test_beta_is_that_of_the_official_scorer(self) -> None:
        # which is called with 0.0741289, the prior that the costs make of 0.0008
        assert pytest.approx(12.49) == BETA and 1 / (1 + BETA) == pytest.approx(0.0741289, abs=1e-7)

    def test_by_hand(self) -> None:
        scores = np.array([[3.0, 2.0, 1.0, 0.0], [2.5, 0.5, 2.0, 0.1]])
        relevant = np.array([[True, True, False, False], [False, True, False, False]])
        # at 2.0 and above: term 1 whole (1), term 2 missed with 2 of 3 false alarms; at 3.0: half
        at_three = (1 / 2) / 2
        assert maximum_value(scores, relevant) == pytest.approx(at_three)
        # in a large collection false alarms cost little: at 0.5 all is found, with 2 or 3 of 10,000
        found = maximum_value(scores, relevant, Collection(2, 10_000))
        assert found == pytest.approx(1 - BETA * (1 / 9_998 + 2 / 9_999) / 2)
        # terms that are not searched are missed
        assert maximum_value(scores, relevant, Collection(8, 4)) == pytest.approx(at_three / 4)

    def test_every_threshold_is_tried(self) -> None:
        generator = np.random.default_rng(0)
        scores = generator.integers(0, 6, (5, 40)).astype(float)  # many are equal
        relevant = generator.random((5, 40)) < 0.2
        scores += 5 * relevant
        relevant[2] = False  # a term that occurs nowhere is left out
        values = [0.0]
        for threshold in np.unique(scores):
            detected = scores >= threshold
            misses = [1 - detected[i, relevant[i]].mean() for i in (0, 1, 3, 4)]
            alarms = [detected[i, ~relevant[i]].mean() for i in (0, 1, 3, 4)]
            values.append(float(1 - np.mean(misses) - BETA * np.mean(alarms)))
        assert max(values) > 0.1
        assert maximum_value(scores, relevant) == pytest.approx(max(values))

    def test_an_interval_and_nothing_to_find(self) -> None:
        generator = np.random.default_rng(0)
        relevant = generator.random((30, 100)) < 0.1
        scores = generator.normal(size=(30, 100)) + 4 * relevant
        speakers = [f"s{i % 10}" for i in range(30)]
        found = value_score(scores, relevant, speakers)
        assert found.low is not None and found.high is not None
        assert 0 < found.low < found.value < found.high < 1
        assert (found.num_items, found.num_speakers) == (30, 10)
        assert average_precisions(scores, relevant).mean() > 0.8
        with pytest.raises(UserError, match="No query occurs in any document"):
            value_score(scores, np.zeros((30, 100), dtype=bool), speakers)


@pytest.fixture
def sentences(tmp_path: Path) -> Corpus:
    """Queries of one word, four tones in its own order; documents of three words."""
    import auscult

    pitches = (300.0, 1500.0, 3000.0, 5000.0)
    tones = {"la": (0, 1, 2, 3), "ti": (3, 2, 1, 0), "so": (1, 3, 0, 2), "do": (2, 0, 3, 1)}
    generator = np.random.default_rng(0)
    rows = ["path\tspeaker\tkeyword\tsplit"]

    def write(name: str, words: Sequence[str], split: str, label: str) -> None:
        order = [pitches[i] for word in words for i in tones[word]]
        time = np.arange(320 * 3) / 16_000
        wave = np.concatenate([0.3 * np.sin(2 * np.pi * pitch * time) for pitch in order])
        wave += 0.02 * generator.standard_normal(len(wave))
        soundfile.write(tmp_path / f"{name}.flac", wave, 16_000)
        rows.append(f"{name}.flac\t\t{label}\t{split}")

    for split in ("dev", "test"):
        for word in tones:
            write(f"{split}-{word}", [word], split, word)
    for number in range(24):
        words = [str(word) for word in generator.choice(list(tones), 3)]
        write(f"d{number}", words, "documents", " ".join(words) if number else "")
    (tmp_path / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    corpus: Corpus = auscult.corpus(f"tsv:{tmp_path}")
    return corpus


CONFIG = QueryByExampleConfig(queries_per_word=2)


class TestPrepare:
    def test_a_corpus_with_documents(self, sentences: Corpus) -> None:
        found = prepare(sentences, CONFIG, skip_unlabelled=False)
        assert found.classes == ("do", "la", "so", "ti")
        assert found.splits["dev"].ids == ["dev-la", "dev-ti", "dev-so", "dev-do"]
        assert found.splits["dev_documents"].cuts == found.splits["test_documents"].cuts
        relevant = found.relevant("dev")
        assert relevant.shape == (4, 24) and not relevant[:, 0].any()
        for i, word in enumerate(found.splits["dev"].labels):
            for j, text in enumerate(found.splits["dev_documents"].labels):
                assert relevant[i, j] == (word in text.split())

    def test_queries_are_chosen(self, words: Corpus) -> None:
        found = prepare(words, CONFIG, skip_unlabelled=False)
        again = prepare(words, CONFIG, skip_unlabelled=False)
        for name in ("dev", "test"):
            queries, documents = found.splits[name], found.splits[f"{name}_documents"]
            assert queries.labels == ("go", "go", "stop", "stop", "yes", "yes")
            assert queries.ids == again.splits[name].ids
            assert not set(queries.ids) & set(documents.ids)
            assert sorted([*queries.ids, *documents.ids]) == sorted(c.id for c in words.split(name))
            assert found.relevant(name).sum(axis=1).tolist() == [6] * 6
        many = prepare(words, QueryByExampleConfig(queries_per_word=99), skip_unlabelled=False)
        assert len(many.splits["dev"].cuts) == 12  # half of them

    def test_leftovers_are_no_words(self, words: Corpus) -> None:
        def renamed(cut: Any) -> Any:
            supervision = supervision_of(cut)
            if supervision.custom["keyword"] == "yes":
                supervision = replace(supervision, custom={"keyword": "_unknown_"})
            return replace(cut, supervisions=[supervision])

        splits = {name: [renamed(cut) for cut in cuts] for name, cuts in words.splits.items()}
        found = prepare(replace(words, splits=splits), CONFIG, skip_unlabelled=False)
        assert found.classes == ("go", "stop")
        assert len(found.splits["dev_documents"].cuts) == 24 - 4

    def test_what_is_wrong_is_named(self, words: Corpus) -> None:
        with pytest.raises(UserError, match="has 0 queries by the label 'kyeword'"):
            prepare(words, QueryByExampleConfig(label="kyeword"), skip_unlabelled=False)
        with pytest.raises(UserError, match="queries_per_word=0: expected 1 or more"):
            QueryByExampleConfig(queries_per_word=0)
        strange = replace(words, splits={**words.splits, "documents": words.split("train")[:1]})
        strange.splits["documents"][0] = replace(
            strange.splits["documents"][0],
            supervisions=[replace(supervision_of(words.split("train")[0]), custom={})],
        )
        with pytest.raises(UserError, match="24 queries .* none of which occurs in a document"):
            prepare(strange, CONFIG, skip_unlabelled=False)
        alike = [cut for cut in words.split("test") if utterance_label(cut, "keyword") == "go"]
        alone = replace(words, splits={**words.splits, "test": alike})
        with pytest.raises(UserError, match="query of the test split .* in every document"):
            prepare(alone, CONFIG, skip_unlabelled=False)


class TestEvaluate:
    def test_it_finds_tones(self, sentences: Corpus, bands: Any) -> None:
        corpus = prepare(sentences, CONFIG, skip_unlabelled=False)
        result = evaluate(bands, corpus, budget=10**9, device="cpu")
        value, precision = score(result.answers, corpus)
        assert (value.metric, precision.metric) == ("mtwv", "map")
        assert value.value > 0.5 and precision.value > 0.9  # chance: 0, and 0.6
        assert value.num_items == 4 and value.num_speakers is None
        assert [layer for layer, _ in result.curve] == [0, 1]
        assert result.layer_weights.sum() == 1 and result.num_parameters == 0
        assert result.answers["id"][:2] == [("test-la", "d0"), ("test-la", "d1")]
        assert len(result.answers["prediction"]) == 4 * 24
        # what is wrong with the words is seen in the score
        documents = corpus.splits["test_documents"]
        turned = (*documents.labels[7:], *documents.labels[:7])
        wrong = replace(
            corpus,
            splits={
                **corpus.splits,
                "test_documents": LabelledSplit("test_documents", documents.cuts, turned),
            },
        )
        worse = score(result.answers, wrong)
        assert worse[0].value < 0.1 and worse[1].value < precision.value

    def test_scores_are_those_of_the_protocol(
        self, sentences: Corpus, bands: Any, tmp_path: Path
    ) -> None:
        """Each step once more, with numpy alone."""
        corpus = prepare(sentences, CONFIG, skip_unlabelled=False)
        result = evaluate(bands, corpus, budget=10**9, device="cpu")
        layer = int(result.layer_weights.argmax())
        sides = []
        for name in ("test", "test_documents"):
            cuts = corpus.splits[name].cuts
            store = FeatureStore(bands, cuts, keep_frames=True, folder=tmp_path).encode()
            frames = store.frames()
            sides.append([frames.read([i], [layer])[0].double().numpy() for i in range(len(cuts))])
        every = np.vstack([row for side in sides for row in side])
        mean, std = every.mean(0), every.std(0, ddof=1).clip(1e-9)
        queries, documents = ([(rows - mean) / std for rows in side] for side in sides)
        raw = np.array([[-warped(q, d) for d in documents] for q in queries])
        expected = (raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)
        found = np.reshape(result.answers["prediction"], expected.shape)
        np.testing.assert_allclose(found, expected, atol=2e-3)  # float32, divided by a small std

    def test_beyond_the_budget(
        self, sentences: Corpus, bands: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        corpus = prepare(sentences, CONFIG, skip_unlabelled=False)
        kept = evaluate(bands, corpus, budget=10**9, device="cpu")
        encoded = bands.rows
        monkeypatch.setattr(query_by_example, "CHUNK", 100)
        live = evaluate(bands, corpus, budget=0, device="cpu")
        assert bands.rows > encoded
        np.testing.assert_allclose(
            live.answers["prediction"], kept.answers["prediction"], atol=1e-4
        )
        np.testing.assert_allclose(live.curve, kept.curve)

    def test_short_queries_detect_nothing(
        self, sentences: Corpus, bands: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query_by_example, "SHORTEST", 13)  # all have 12 frames
        corpus = prepare(sentences, CONFIG, skip_unlabelled=False)
        result = evaluate(bands, corpus, budget=10**9, device="cpu")
        assert set(result.answers["prediction"]) == {0.0}
        assert score(result.answers, corpus)[0].value == 0


def test_auscult_run(run: Callable[..., tuple[int, str, str]], word_folder: Path, tmp_path: Path):
    command = ["run", "-u", "random(hubert_tiny)", "-c", f"tsv:{word_folder}", "--no-baselines"]
    command += ["-t", "query_by_example", "queries_per_word=2", "--out", str(tmp_path), "--json"]
    status, stdout, stderr = run(*command)
    assert status == 0, stderr
    value, precision = json.loads(stdout)["records"]
    assert (value["metric"], precision["metric"]) == ("mtwv", "map")
    assert value["layer"] in range(5) and value["probe"] == "subsequence DTW"
    assert set(value["config"]["dev_scores"]) >= {"0", "1"}
    assert value["config"]["head_parameters"] == 0 and value["num_items"] == 6
    (answers,) = tmp_path.glob("heads/query_by_example-*/predictions.jsonl")
    query, document = json.loads(answers.read_text().splitlines()[0])["id"]
    assert query != document
    for option in (["--steps", "10"], ["--finetune"], ["--learning-rates", "1e-3"]):
        status, _, stderr = run(*command, *option)
        assert status == 2 and f"trains nothing, so {option[0]} does not apply" in stderr


def test_the_official_score_counts_what_was_not_searched(sentences: Corpus, bands: Any) -> None:
    """As the reader of QUESST 2014 says of its other languages."""
    label = {"collection_queries": "8", "collection_documents": "240"}
    splits = dict(sentences.splits)
    for name in ("dev", "test"):
        cuts = sentences.split(name)
        supervisions = [supervision_of(cut) for cut in cuts]
        splits[name] = [
            replace(cut, supervisions=[replace(x, custom=x.custom | label)])
            for cut, x in zip(cuts, supervisions, strict=True)
        ]
    corpus = prepare(replace(sentences, splits=splits), CONFIG, skip_unlabelled=False)
    assert corpus.collection == {"dev": Collection(8, 240), "test": Collection(8, 240)}
    result = evaluate(bands, corpus, budget=10**9, device="cpu")
    official = score(result.answers, corpus)[0].value
    alone = score(result.answers, prepare(sentences, CONFIG, skip_unlabelled=False))[0].value
    assert alone / 2 <= official <= 0.5  # fewer false alarms, but half of the queries are missed


def test_the_row_of_the_table() -> None:
    task = find_task("query_by_example")
    assert not task.trains and task.spec.metrics == ("mtwv", "map")
    assert task.config() == QueryByExampleConfig(label="keyword", queries_per_word=5)
