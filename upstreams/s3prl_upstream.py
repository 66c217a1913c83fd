"""Any upstream of s3prl's hub behind our contract: ``s3prl:NAME[:CHECKPOINT]``."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auscult import bridge
from auscult.address import Address
from auscult.contracts import SAMPLE_RATE, HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.seed import seeded
from auscult.upstream import AttentionVisitor, Upstream, fingerprint_weights

from .configuration import check_for_others
from .hook import single_precision
from .hub import find_file, find_source, read_config

MIN_SAMPLES = 800  # s3prl itself gives no upstream less than 0.05 s


class S3prlUpstream(Upstream):
    """An upstream of s3prl whose rows do not depend on their neighbours.

    Most of s3prl's upstreams let padding leak into valid frames, so only utterances of equal length
    go through the model together. The hub says the stride of a model but neither its receptive
    field nor the number of frames: frames are counted by encoding, and where they lie is measured.

    Args:
        model: What the hub built, in evaluation mode.
        address: What it was asked for.

    Raises:
        UserError: The model's states cannot stand beside each other.
    """

    autocast = False  # many compute a log-mel inside, which it would round

    def __init__(self, model: nn.Module, address: Address) -> None:
        super().__init__()
        self.model = model
        self.name = str(address)
        self._frames: dict[int, int] = {}  # samples -> frames
        with torch.no_grad():
            layers = self._encode(_noise(SAMPLE_RATE).unsqueeze(0))
        stride = self._stride(layers[0].shape[1])
        self.spec = UpstreamSpec(
            name=self.name,
            family="s3prl",
            num_layers=len(layers) - 1,
            dim=layers[0].shape[2],
            geometry=self._measure_geometry(stride),
            convention="s3prl",
            num_parameters=sum(p.numel() for p in model.parameters()),
            source=address.checkpoint,
            sha256=fingerprint_weights(model.state_dict(), [address.checkpoint.split(":")[0]]),
        )

    def forward(self, audio: Waveforms) -> HiddenStates:
        """See :class:`Upstream`.

        Raises:
            UserError: An utterance shorter than 0.05 s, or another sample rate than 16 kHz.
        """
        if audio.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"{self.name} reads audio at {SAMPLE_RATE} Hz, got {audio.sample_rate} Hz; "
                "resample it first."
            )
        groups: dict[int, list[int]] = {}
        for row, samples in enumerate(audio.lengths.tolist()):
            groups.setdefault(samples, []).append(row)
        if min(groups) < MIN_SAMPLES:
            raise UserError(
                f"{self.name} got an utterance of {min(groups)} samples; s3prl's upstreams need "
                f"{MIN_SAMPLES} (0.05 s) at least."
            )
        found: dict[int, list[Tensor]] = {}  # row -> layers, each (frame, dim)
        for samples, rows in groups.items():
            layers = self._encode(audio.samples[rows, :samples])
            found |= {row: [x[i] for x in layers] for i, row in enumerate(rows)}
        ordered = [found[row] for row in range(len(found))]
        return HiddenStates(
            tuple(
                pad_sequence(list(rows), batch_first=True) for rows in zip(*ordered, strict=True)
            ),
            torch.tensor([len(row[0]) for row in ordered], device=audio.lengths.device),
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        """See :class:`Upstream`; encodes noise of each length that was not met before."""
        for samples in set(lengths.tolist()) - set(self._frames):
            self._frames[samples] = 0
            if samples >= MIN_SAMPLES:
                with torch.no_grad():
                    self._encode(_noise(samples).to(self.device).unsqueeze(0))
        return torch.tensor([self._frames[n] for n in lengths.tolist()], device=lengths.device)

    def least_samples(self) -> int:
        """See :class:`Upstream`; what is shorter is refused."""
        return MIN_SAMPLES

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        """Refuse.

        Raises:
            UserError: Always; s3prl's upstreams do not return attention.
        """
        raise UserError(
            f"{self.name} gives no attention maps: s3prl's upstreams do not return them. Load the "
            "same model through another family, such as hf:."
        )

    def _encode(self, samples: Tensor) -> list[Tensor]:
        """Encode rows of equal length (batch, time) into states, each (batch, frame, dim)."""
        with bridge.hushed(), single_precision():
            answer = self.model(list(samples))
        layers = list(answer.get("hidden_states", ()))
        shapes = {tuple(layer.shape) for layer in layers}
        if len(shapes) != 1:
            listed = ", ".join(str(shape) for shape in sorted(shapes)) or "none"
            raise UserError(
                f"{self.name} cannot be read layer by layer: expected hidden states of one shape, "
                f"got {listed} as (batch, frame, dim)."
            )
        self._frames[samples.shape[1]] = layers[0].shape[1]
        return layers

    def _stride(self, frames_per_second: int) -> int:
        """Return samples per frame: what the model says, or else what a second shows."""
        ask = getattr(self.model, "get_downsample_rates", None)
        said = ask("hidden_states") if ask is not None else round(SAMPLE_RATE / frames_per_second)
        strides = set(said) if isinstance(said, list | tuple) else {said}
        if len(strides) != 1:
            raise UserError(
                f"{self.name} cannot be read layer by layer: its states have different strides "
                f"({', '.join(str(stride) for stride in sorted(strides))} samples)."
            )
        return int(strides.pop())

    def _measure_geometry(self, stride: int) -> FrameGeometry:
        """Find at which length a further frame appears, and with that where frames lie.

        If ``n`` frames need at least ``window + (n - 1) * stride`` samples and the model pads both
        ends alike, frame ``i`` is centred at ``i * stride + (window - 1) / 2``, whatever its
        receptive field. It is said to be ``window`` long, or as long as the stride where padding
        makes the window shorter than that.
        """
        low, high = SAMPLE_RATE, SAMPLE_RATE + stride
        frames, more = self.num_frames(torch.tensor([low, high])).tolist()
        if more != frames + 1:  # frames of another kind, such as one for each second
            return FrameGeometry(stride, receptive_field=stride)
        while high - low > 1:
            middle = (low + high) // 2
            if int(self.num_frames(torch.tensor([middle]))) == frames:
                low = middle
            else:
                high = middle
        window = high - frames * stride
        reach = max(-(-(stride - window) // 2), 0)
        return FrameGeometry(stride, receptive_field=window + 2 * reach, offset=-reach)


def load(address: Address, seed: int) -> S3prlUpstream:
    """Build the upstream that ``s3prl:NAME[:CHECKPOINT]`` addresses, in evaluation mode.

    Args:
        address: Its ``checkpoint`` is ``NAME`` or ``NAME:CHECKPOINT``.
        seed: Seed of the weights of the few upstreams that come without trained ones.

    Raises:
        UserError: A random twin was asked for, or s3prl cannot build the upstream.
    """
    if address.random:
        raise UserError(
            f"{address} is not available: s3prl builds a model from its checkpoint alone. For a "
            "random twin name the architecture, such as random(hubert_base)."
        )
    # s3prl knows no subnets, so an @ belongs to the path of the checkpoint
    named = address.checkpoint + (f"@{address.subnet}" if address.subnet else "")
    name, _, checkpoint = named.partition(":")
    if not name:
        raise UserError("s3prl: needs the name of an upstream, such as s3prl:fbank.")
    if name.startswith("hf_") and checkpoint:  # transformers reads it, in its own way
        source = find_source(checkpoint)
        read_config(source)
        if (path := find_file(source, "config.json")) is not None:
            check_for_others(path)
    with seeded(seed):
        model = bridge.build_s3prl_upstream(name, checkpoint)
    try:
        return S3prlUpstream(model, address)
    except UserError:
        raise
    except Exception as error:  # each family fails in its own way, at options that it never checks
        reason = f"{type(error).__name__} {error}".strip().splitlines()[0]
        raise UserError(f"{address}: s3prl builds it, and it cannot encode: {reason}") from error


def _noise(samples: int) -> Tensor:
    """Return the same white noise (time,) at every call; silence breaks normalisation."""
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
