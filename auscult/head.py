"""s3prl's downstream heads, built without its data code."""

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
