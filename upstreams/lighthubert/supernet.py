"""The once-for-all network: stores the weights of every subnet, runs any of them, cuts any out."""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from auscult.seed import seeded
from auscult.upstream import AttentionVisitor

from .network import DROPOUT, Encoder, LightHubert
from .slicing import slice_state
from .space import PUBLISHED, Dimensions, ExtractorMode, Subnet, whole


class Supernet(nn.Module):
    """Weights in full under their published names; a subnet is named at each pass.

    Subnets share what they slice: a gradient of one reaches the weights of all.
    """

    def __init__(self, mode: ExtractorMode = "layer_norm", stored: Dimensions = PUBLISHED) -> None:
        super().__init__()
        self.mode: ExtractorMode = mode
        self.stored = stored
        self.dropout = DROPOUT
        network = LightHubert(whole(stored), mode)
        self.mask_emb = network.mask_emb
        self.feature_extractor = network.feature_extractor
        self.layer_norm = network.layer_norm
        self.post_extract_proj = network.post_extract_proj
        self.encoder = network.encoder
        self.encoder.pos_conv[0] = _NormedWeight(stored)
        head = nn.Linear(stored.width, stored.target_dim, bias=False)
        self.layer_pred_heads = nn.ModuleDict({str(stored.layers - 1): head})

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor,
        subnet: Subnet,
        masked: Tensor | None = None,
        visit: AttentionVisitor | None = None,
    ) -> tuple[Tensor, ...]:
        """Run ``subnet`` on the shared weights; as :meth:`LightHubert.forward` otherwise."""
        network = self._skeleton(subnet)
        weights = slice_state(dict(self.named_parameters()), subnet)
        states: tuple[Tensor, ...] = functional_call(
            network, weights, (samples, lengths, masked, visit), strict=True
        )
        return states

    def predict(self, state: Tensor) -> Tensor:
        """Return what the pretraining head predicts of the last ``state`` (batch, frame, dim)."""
        return F.linear(state, self.head.weight[:, : state.shape[-1]])

    @property
    def head(self) -> nn.Linear:
        """The pretraining head, which reads the last layer."""
        head = self.layer_pred_heads[str(self.stored.layers - 1)]
        assert isinstance(head, nn.Linear)
        return head

    def cut(self, subnet: Subnet) -> LightHubert:
        """Return ``subnet`` as a network of its own, which shares nothing with this one."""
        network = self._skeleton(subnet)
        with torch.no_grad():
            weights = slice_state(dict(self.named_parameters()), subnet)
            own = {
                name: weight.clone(memory_format=torch.contiguous_format)
                for name, weight in weights.items()
            }
        network.load_state_dict(own, assign=True)
        return network

    def _skeleton(self, subnet: Subnet) -> LightHubert:
        if subnet.stored != self.stored:
            raise ValueError(
                f"Supernet: {subnet} is cut from {subnet.stored}; this one stores {self.stored}."
            )
        with torch.device("meta"):
            network = LightHubert(subnet, self.mode, self.dropout)
        return network.train(self.training)


class _NormedWeight(nn.Module):
    """A convolution's weight as norm and direction of each tap, which slicing makes one of."""

    def __init__(self, stored: Dimensions) -> None:
        super().__init__()
        dim, kernel = stored.width, stored.position_kernel
        self.bias = nn.Parameter(torch.empty(dim))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // stored.position_groups, kernel))


def draw_supernet(mode: ExtractorMode, seed: int, stored: Dimensions = PUBLISHED) -> Supernet:
    """Return a supernet as LightHuBERT's pretraining begins, its weights a function of ``seed``."""
    with torch.device("meta"):
        supernet = Supernet(mode, stored)
    supernet.to_empty(device=torch.get_default_device())
    with seeded(seed), torch.no_grad():
        nn.init.uniform_(supernet.mask_emb)
        supernet.post_extract_proj.reset_parameters()
        for module in supernet.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()
        supernet.head.reset_parameters()
        _draw_encoder(supernet.encoder, stored.width)
    return supernet


def _draw_encoder(encoder: Encoder, width: int) -> None:
    std = 0.02 * math.sqrt(PUBLISHED.width / width)  # sums over a narrower input stay as large
    for module in encoder.layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
    position = encoder.pos_conv[0]
    assert isinstance(position, _NormedWeight)
    dim, _, kernel = position.weight_v.shape
    nn.init.normal_(position.weight_v, std=math.sqrt(4 / (kernel * dim)))
    nn.init.zeros_(position.bias)
    position.weight_g.copy_(torch.linalg.vector_norm(position.weight_v, dim=(0, 1), keepdim=True))
