"""s3prl's downstream heads, built without its data code."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from auscult.bridge import repair


def build_utterance_head(input_dim: int, num_classes: int) -> nn.Module:
    """Return SUPERB's utterance classifier, s3prl's ``UtteranceLevel``: mean pooling, one layer.

    Its ``forward`` takes features (batch, frame, dim) and their lengths (batch,), and returns
    logits (batch, label) and something that nobody needs.
    """
    repair()
    from s3prl.downstream.model import UtteranceLevel

    head: nn.Module = UtteranceLevel(input_dim, num_classes, pooling="MeanPooling")
    return head


def build_frame_head(input_dim: int, num_classes: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Return a classifier of frames, s3prl's ``FrameLevel``: linear, or with ReLU layers before.

    Its ``forward`` takes features (..., dim) and returns logits (..., label) and
    something that nobody needs.

    Args:
        input_dim: Size of the features.
        num_classes: Size of the label set.
        hidden: Sizes of the hidden layers.
    """
    repair()
    from s3prl.downstream.model import FrameLevel

    head: nn.Module = FrameLevel(input_dim, num_classes, hiddens=list(hidden))
    return head


def build_recurrent_head(input_dim: int, num_classes: int, hidden_dim: int = 1024) -> nn.Module:
    """Return SUPERB's sequence labeller, s3prl's ``RNNs``: two bidirectional LSTMs, dropout 0.2.

    Its ``forward`` takes features (batch, frame, dim) and their lengths (batch,) on the CPU, and
    returns logits (batch, frame, label) and the lengths.
    """
    repair()
    from s3prl.downstream.asr.model import RNNs

    head: nn.Module = RNNs(
        input_dim,
        num_classes,
        upstream_rate=-1,  # not looked at where total_rate is -1: no frames are dropped
        total_rate=-1,
        module="LSTM",
        bidirection=True,
        dim=[hidden_dim, hidden_dim],
        dropout=[0.2, 0.2],
        layer_norm=[False, False],
        proj=[False, False],
        sample_rate=[1, 1],
        sample_style="concat",
    )
    return head


def build_spec_augment(*, adaptive: bool) -> nn.Module:
    """Return SUPERB's SpecAugment of features, s3prl's ``SpecAug``; it draws from torch's state.

    Its ``forward`` takes a list of (frame, dim) and returns one, and the lengths.

    Args:
        adaptive: As many time masks, and as wide ones, as 4 % of the frames allow, at most 20.
    """
    repair()
    from s3prl.downstream.specaug import SpecAug

    augment: nn.Module = SpecAug(
        apply_time_warp=True,
        time_warp_window=5,
        apply_freq_mask=True,
        freq_mask_width_range=(0, 50),
        num_freq_mask=4,
        apply_time_mask=True,
        time_mask_width_range=(0, 40),
        num_time_mask=2,
        adaptive=adaptive,
        adaptive_number_ratio=0.04,
        adaptive_size_ratio=0.04,
        max_n_time_masks=20,
    )
    return augment


class SpeakerEmbedder(Protocol):
    """A module that makes one vector of an utterance, of one kind for training and one for use."""

    def __call__(self, features: Tensor, mask: Tensor, /) -> Tensor:
        """Return what the loss is of."""
        ...

    def inference(self, features: Tensor, mask: Tensor, /) -> Tensor:
        """Return what utterances are compared by."""
        ...


def build_speaker_embedder(dim: int, pooled_dim: int) -> SpeakerEmbedder:
    """Return SUPERB's x-vector network, s3prl's ``Model``: TDNN layers, statistics, linear layers.

    Its ``forward``, for training, and ``inference``, for comparing, take features (batch, frame,
    dim) and a mask (batch, frame - 14) that is negative at frames to leave out, and return
    embeddings (batch, dim). The mask must begin one frame early: s3prl's pooling takes the first
    masked frame for a valid one.

    Args:
        dim: Size of features and embeddings.
        pooled_dim: Channels whose mean and standard deviation over time are taken.
    """
    repair()
    from s3prl.downstream.sv_voxceleb1.model import Model

    network: SpeakerEmbedder = Model(
        input_dim=dim,
        agg_dim=pooled_dim,
        agg_module_name="SP",
        module_name="XVector",
        utterance_module_name="UtteranceExtractor",
        hparams={"agg_dim": pooled_dim, "dropout_p": 0.0, "batch_norm": False},
    )
    return network


def build_margin_loss(dim: int, num_speakers: int, scale: float, margin: float) -> nn.Module:
    """Return s3prl's ``AMSoftmaxLoss``, of embeddings (batch, dim) and speaker numbers (batch,)."""
    repair()
    from s3prl.downstream.sv_voxceleb1.model import AMSoftmaxLoss

    loss: nn.Module = AMSoftmaxLoss(dim, num_speakers, s=scale, m=margin)
    return loss


def build_diarization_head(input_dim: int, num_speakers: int, hidden_dim: int = 512) -> nn.Module:
    """Return SUPERB's diarization head: one LSTM, one linear layer.

    Its ``forward`` takes features (batch, frame, dim) and returns logits (batch, frame, speaker).
    """
    repair()
    from s3prl.downstream.diarization.model import Model

    head: nn.Module = Model(input_dim, num_speakers, rnn_layers=1, hidden_size=hidden_dim)
    return head
