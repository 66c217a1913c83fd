"""Scaled dot-product attention: by torch's fused kernel, or with its weights handed out."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

WeightVisitor = Callable[[Tensor], None]  # takes (batch, head, frame, frame): query, then key


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    keys: Tensor | None,
    visit: WeightVisitor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Return what each head mixes of the values, heads side by side, (batch, frame, dim).

    Args:
        query: (batch, frame, dim), heads side by side.
        key: The same.
        value: The same.
        heads: How many there are.
        keys: (batch, 1, 1, frame), the valid frames, which alone are mixed; None where all are.
        visit: Takes the weights, softmax in float32; None for the fused kernel.
        dropout: Share of the weights that are zeroed in training; none of those handed out.
    """
    query, key, value = (
        side_by_side.unflatten(-1, (heads, -1)).transpose(1, 2)  # (batch, head, frame, dim)
        for side_by_side in (query, key, value)
    )
    if visit is None:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=dropout)
    else:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        if keys is not None:
            scores = scores.masked_fill(~keys, -torch.inf)
        weights = scores.float().softmax(-1)
        visit(weights)
        mixed = weights.to(value.dtype) @ value
    return mixed.transpose(1, 2).flatten(2)
