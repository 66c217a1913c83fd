"""s3prl's downstream heads, built without its data code."""

from collections.abc import Sequence

from torch import nn

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

    Its ``forward`` takes features (..., dim) and returns logits (..., label) and nothing more.

    Args:
        input_dim: Size of the features.
        num_classes: Size of the label set.
        hidden: Sizes of the hidden layers.
    """
    repair()
    from s3prl.downstream.model import FrameLevel

    head: nn.Module = FrameLevel(input_dim, num_classes, hiddens=list(hidden))
    return head
