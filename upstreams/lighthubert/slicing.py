"""The weights of a subnet as a differentiable function of the supernet's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .space import Subnet, ffn_rows, kept_layers

POSITION = "encoder.pos_conv.0"
_LAYER = "encoder.layers."
_SHARED = ("mask_emb", "feature_extractor.", "layer_norm.")  # in full in every subnet
_STREAM = ("post_extract_proj.", "encoder.layer_norm.", f"{POSITION}.bias")  # first rows
# What each axis of a layer's weight runs over; a bias has the first axis alone.
_AXES = {
    "self_attn.q_proj": ("heads", "stream"),
    "self_attn.k_proj": ("heads", "stream"),
    "self_attn.v_proj": ("heads", "stream"),
    "self_attn.out_proj": ("stream", "heads"),
    "self_attn_layer_norm": ("stream",),
    "fc1": ("ffn", "stream"),
    "fc2": ("stream", "ffn"),
    "final_layer_norm": ("stream",),
}


def slice_state(state: Mapping[str, Tensor], subnet: Subnet) -> dict[str, Tensor]:
    """Return the weights of ``subnet`` under the names that :class:`LightHubert` gives them.

    Most are views, and gradients flow back to ``state``.

    Args:
        state: Every tensor of the supernet, named as in the published checkpoints.
        subnet: What to cut out.
    """
    dim, groups = subnet.embed_dim, subnet.stored.position_groups
    kept = kept_layers(subnet.depth, subnet.stored)
    number_of = {str(stored): number for number, stored in enumerate(kept)}
    # The whole weight is formed before it is cut: its norms run over all channels.
    position = position_weight(state[f"{POSITION}.weight_g"], state[f"{POSITION}.weight_v"])
    sliced = {f"{POSITION}.weight": position[:dim, : dim // groups]}
    for name, tensor in state.items():
        if name.startswith(_SHARED):
            sliced[name] = tensor
        elif name.startswith(_STREAM):
            sliced[name] = tensor[:dim]
        elif name.startswith(_LAYER):
            stored, _, part = name.removeprefix(_LAYER).partition(".")
            if stored in number_of:
                number = number_of[stored]
                sliced[f"{_LAYER}{number}.{part}"] = _slice_part(part, tensor, subnet, number)
    return sliced


def position_weight(norm: Tensor, direction: Tensor) -> Tensor:
    """Return the weight (dim, dim / groups, kernel) of the positional convolution.

    Args:
        norm: (1, 1, kernel), of each tap.
        direction: (dim, dim / groups, kernel).
    """
    length: Tensor = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    return direction * (norm / length)


def _slice_part(part: str, tensor: Tensor, subnet: Subnet, number: int) -> Tensor:
    """Cut one tensor of the layer that is ``number`` in the subnet, counted from zero."""
    stored = subnet.stored
    width = {"stream": subnet.embed_dim, "heads": stored.head_dim * subnet.heads[number]}
    for axis, kind in enumerate(_AXES[part.rpartition(".")[0]][: tensor.ndim]):
        if kind == "ffn":
            rows = ffn_rows(subnet.embed_dim, subnet.ffn_dims[number], stored)
            tensor = torch.cat([tensor.narrow(axis, a, b - a) for a, b in rows], axis)
        else:
            tensor = tensor.narrow(axis, 0, width[kind])
    return tensor
