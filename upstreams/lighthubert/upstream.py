"""LightHuBERT behind the contract of an encoder."""

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from auscult.contracts import UpstreamSpec, Waveforms
from auscult.cost import Macs
from auscult.frame import conv_geometry
from auscult.upstream import AttentionVisitor, fingerprint_weights

from ..hook import single_precision
from ..padded import PaddedUpstream, Padding
from .cost import count_macs
from .network import KERNELS, STRIDES, LightHubert, num_frames
from .space import ExtractorMode, SearchSpace


def prepare(audio: Waveforms, mode: ExtractorMode) -> Tensor:
    """Return the samples (batch, time), each row normalised where the extractor has layer norm."""
    rows = audio.rows()
    if mode == "layer_norm":
        rows = [F.layer_norm(row, row.shape) for row in rows]
    return pad_sequence(rows, batch_first=True)


class LightHubertUpstream(PaddedUpstream):
    """A subnet cut out of its supernet.

    Hidden state 0 is the projected output of the convolutions, as LightHuBERT publishes it: without
    positions and before the first layer norm. The input of the first block is no state.
    """

    def __init__(
        self,
        network: LightHubert,
        space: SearchSpace,
        *,
        name: str,
        source: str,
        padding: Padding | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.space = space
        self.padding = padding
        subnet = network.subnet
        normalize = network.mode == "layer_norm"
        self.spec = UpstreamSpec(
            name=name,
            family="lighthubert",
            num_layers=subnet.depth,
            dim=subnet.embed_dim,
            heads=subnet.heads,
            geometry=conv_geometry(KERNELS, STRIDES),
            normalize=normalize,
            convention="projected_convolution",
            subnet=str(subnet),
            num_parameters=sum(parameter.numel() for parameter in network.parameters()),
            head_parameters=subnet.embed_dim * subnet.stored.target_dim,
            source=source,
            sha256=fingerprint_weights(
                network.state_dict(), [f"lighthubert, {network.mode} extractor"]
            ),
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return num_frames(lengths)

    def encode(
        self, audio: Waveforms, frames: Tensor, visit: AttentionVisitor | None
    ) -> tuple[Tensor, ...]:
        """Return the states of one batch, each (batch, frame, dim)."""
        samples = prepare(audio, self.network.mode).to(self.device)
        with single_precision():
            states: tuple[Tensor, ...] = self.network(
                samples, audio.lengths.to(self.device), visit=visit
            )
        return states

    def count_macs(self, samples: int) -> Macs:
        """Return what encoding one utterance of ``samples`` costs."""
        return count_macs(self.network.subnet, samples)
