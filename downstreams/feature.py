"""What stands in s3prl's runner where its upstream was: features that were extracted once."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.audio import read_batch
from auscult.bridge import HubUpstream
from auscult.cache import cache_folder
from auscult.contracts import HiddenStates
from auscult.feature import (
    FeatureStore,
    FrameSource,
    encode_stores,
    frame_bytes,
)
from auscult.pooled import Pooled
from auscult.precision import Precision, computing_in, precision_of
from auscult.process import ALONE, Processes
from auscult.progress import logger
from auscult.upstream import Upstream

from .split import LabelledCorpus, Utterance


class CorpusUpstream(HubUpstream):
    """An encoder that takes utterances of a corpus instead of waveforms.

    A frozen encoder's layers are encoded once and kept, in the same files that probing uses, where
    all of all frames fit the budget; else every batch is encoded when it is needed. Either way
    features are rounded to float16. An encoder that is trained too encodes every batch, unrounded;
    one without weights stays frozen.

    Args:
        encoder: On the device that it shall run on.
        corpus: Whose utterances will be asked for.
        budget: Largest size of the kept features, in bytes.
        device: Where the features shall go.
        folder: Where they are kept; by default in the user's cache.
        precision: What a frozen encoder computes in.
        finetune: Whether the encoder is to be trained.
        processes: Among which the encoding is shared out.
    """

    def __init__(
        self,
        encoder: Upstream,
        corpus: LabelledCorpus,
        *,
        budget: int,
        device: str,
        folder: Path | None = None,
        precision: Precision = "float32",
        finetune: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(encoder)
        self._corpus = corpus
        self._device = device
        self._precision: Precision = precision_of(encoder, precision)
        self._kept: dict[str, _Kept] = {}
        self.finetuned = finetune and any(p.requires_grad for p in encoder.parameters())
        if self.finetuned:
            return
        size = sum(frame_bytes(encoder, split.cuts) for split in corpus.splits.values())
        if size > budget:
            logger.info(
                f"{encoder.spec.name}: all features would take {size / 1e9:.2f} GB, more than "
                f"the budget of {budget / 1e9:.2f} GB: every batch is encoded anew (--budget "
                "raises the limit)."
            )
            return
        folder = folder or cache_folder() / "features"
        logger.info(f"{encoder.spec.name}: features of {size / 1e9:.2f} GB, kept in {folder}.")
        stores = {
            name: FeatureStore(
                encoder, split.cuts, keep_frames=True, folder=folder, precision=self._precision
            )
            for name, split in corpus.splits.items()
        }
        encode_stores(encoder.spec.name, stores.values(), processes)
        layers = range(encoder.spec.num_layers + 1)
        self._kept = {name: _Kept(store, layers) for name, store in stores.items()}

    def for_training(self) -> "CorpusUpstream":
        """Return what one head is trained on: a copy of an encoder that is trained, else this."""
        if not self.finetuned:
            return self
        encoder = copy.deepcopy(self.encoder)
        return CorpusUpstream(encoder, self._corpus, budget=0, device=self._device, finetune=True)

    def forward(self, wavs: Sequence[Any]) -> dict[str, Any]:
        """Return what :class:`HubUpstream` does, for :class:`Utterance` or waveforms (time,)."""
        if not isinstance(wavs[0], Utterance):  # s3prl's featurizer looks at a second of noise
            return super().forward(wavs)
        split = wavs[0].split
        items = [utterance.index for utterance in wavs]
        states = self._kept[split].read(items) if self._kept else self._encode(split, items)
        samples = torch.tensor([len(utterance) for utterance in wavs])
        states = HiddenStates(
            tuple(layer.to(self._device) for layer in states.layers),
            states.lengths.to(self._device),
        )
        return self.answer(states, samples)

    def audio_read_again(self) -> list[Any]:
        """Return the utterances that training a head reads: none where features are kept."""
        splits = () if self._kept else self._corpus.splits.values()
        return [cut for split in splits for cut in split.cuts]

    def constant_layers(self) -> list[int]:
        """Return the kept layers whose mean over time is the same in every training utterance."""
        if not self._kept:
            return []
        return self._kept["train"].pooled.constant_layers()

    def _encode(self, split: str, items: Sequence[int]) -> HiddenStates:
        audio = read_batch([self._corpus.splits[split].cuts[i] for i in items])
        audio = audio.to(self.encoder.device)
        if self.finetuned:
            self.encoder.train(self.training and torch.is_grad_enabled())
            return self.encoder(audio)  # type: ignore[no-any-return]
        with torch.no_grad(), computing_in(self._precision, self.encoder.device):
            states = self.encoder(audio)
        return HiddenStates(tuple(layer.half().float() for layer in states.layers), states.lengths)


class _Kept:
    """The features of one split."""

    def __init__(self, store: FeatureStore, layers: Sequence[int]) -> None:
        self.pooled: Pooled = store.pooled()
        self._frames: FrameSource = store.frames()
        self._layers = layers

    def read(self, items: Sequence[int]) -> HiddenStates:
        lengths = self.pooled.num_frames[list(items)].tolist()
        layers: list[Tensor] = self._frames.read(items, self._layers)
        padded = [
            pad_sequence(list(torch.split(layer, lengths)), batch_first=True) for layer in layers
        ]
        return HiddenStates(tuple(padded), torch.tensor(lengths))
