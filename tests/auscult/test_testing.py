"""The guards are guarded: for each check an encoder that breaks it, and one that keeps them all."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auscult import testing
from auscult.contracts import AttentionMap, HiddenStates, UpstreamSpec, Waveforms
from auscult.frame import FrameGeometry, conv_geometry, conv_lengths
from auscult.testing import run_checks, upstream_checks
from auscult.upstream import AttentionVisitor, Upstream

HEADS, DIM = 2, 8


class Sound(Upstream):
    """Two attention blocks on frames of 400 samples, each utterance by itself."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = [(400, DIM), (DIM, DIM), (DIM, DIM)]
        self.mix = nn.ParameterList(torch.randn(s, generator=generator) / 20 for s in shapes)
        self.register_buffer("calls", torch.zeros(1))
        self.spec = UpstreamSpec(
            name="sound",
            family="toy",
            num_layers=2,
            dim=DIM,
            heads=(HEADS, HEADS),
            geometry=conv_geometry((400,), (320,)),
            num_parameters=sum(parameter.numel() for parameter in self.parameters()),
            sha256="toy",
        )
        self.visitor: AttentionVisitor | None = None

    def num_frames(self, lengths: Tensor) -> Tensor:
        return conv_lengths(lengths, (400,), (320,))

    def forward(self, audio: Waveforms) -> HiddenStates:
        lengths = self.check_audio(audio)
        rows = [samples.unfold(0, 400, 320) @ self.mix[0] for samples in audio.rows()]
        layers = [pad_sequence(rows, batch_first=True)]
        for block in (1, 2):
            weights = self.attend(layers[-1], lengths)
            if self.visitor is not None:
                self.visitor(AttentionMap(block, weights, lengths))
            heads = layers[-1].unflatten(-1, (HEADS, -1)).transpose(1, 2)
            mixed = (weights @ heads).transpose(1, 2).flatten(2)
            layers.append(layers[-1] + torch.tanh(mixed @ self.mix[block]))
        return HiddenStates(tuple(layers), lengths)

    def attend(self, states: Tensor, lengths: Tensor) -> Tensor:
        heads = states.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        scores = heads @ heads.transpose(2, 3)
        padded = torch.arange(states.shape[1]) >= lengths[:, None]
        return scores.masked_fill(padded[:, None, None], -torch.inf).softmax(-1)

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        self.visitor = visit
        try:
            return self.forward(audio)
        finally:
            self.visitor = None


class WrongWidth(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, dim=DIM + 1)


class WrongCount(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, num_parameters=1)


class MissingLayer(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        states = super().forward(audio)
        return HiddenStates(states.layers[1:], states.lengths)


class NotFinite(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        states = super().forward(audio)
        return HiddenStates(tuple(x / 0 for x in states.layers), states.lengths)


class Halves(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        states = super().forward(audio)
        return HiddenStates(tuple(x.half() for x in states.layers), states.lengths)


class NoStates(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        return super().forward(audio).layers[0]  # type: ignore[return-value]


class Fractions(Sound):
    def num_frames(self, lengths: Tensor) -> Tensor:
        return (lengths - 400) / 320 + 1

    def forward(self, audio: Waveforms) -> HiddenStates:
        lengths = conv_lengths(audio.lengths, (400,), (320,))
        return HiddenStates((torch.zeros(len(lengths), 20, DIM),) * 3, lengths)


class NoVisit(Sound):
    visit_attention = Upstream.visit_attention  # type: ignore[assignment]


class OneFrameMore(Sound):
    def num_frames(self, lengths: Tensor) -> Tensor:
        frames = super().num_frames(lengths)
        return torch.where(frames > 3, frames + 1, frames)


class WrongGeometry(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, geometry=FrameGeometry(160, 400))


class ShiftedGeometry(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, geometry=FrameGeometry(320, 400, offset=-400))


class TakesShortAudio(Sound):
    def check_audio(self, audio: Waveforms) -> Tensor:
        return self.num_frames(audio.lengths)


class RaisesElse(Sound):
    def check_audio(self, audio: Waveforms) -> Tensor:
        frames = self.num_frames(audio.lengths)
        if int(frames.min()) < 1:
            raise ValueError("too short")
        return frames


class Drifts(Sound):
    runs = 0

    def forward(self, audio: Waveforms) -> HiddenStates:
        self.runs += 1
        states = super().forward(audio)
        return HiddenStates(tuple(x + 1e-5 * self.runs for x in states.layers), states.lengths)


class SeesNeighbours(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        level = audio.samples.std()
        return super().forward(Waveforms(audio.samples / level, audio.lengths))


class SeesPadding(Sound):
    """Normalises over its own row, but with the padding: a group norm under padding."""

    def forward(self, audio: Waveforms) -> HiddenStates:
        level = audio.samples.std(1, keepdim=True)
        return super().forward(Waveforms(audio.samples / level, audio.lengths))


class ChangesAudio(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        states = super().forward(audio)
        audio.samples.mul_(0.5)
        return states


class LeavesHooks(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        self.register_forward_hook(lambda module, args, output: None)
        return super().forward(audio)


class Counts(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        self.get_buffer("calls").add_(1)
        return super().forward(audio)


class StartsTraining(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        self.train()
        return super().forward(audio)


class DrawsGlobally(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        torch.rand(1)
        return super().forward(audio)


class AttendsToPadding(Sound):
    def attend(self, states: Tensor, lengths: Tensor) -> Tensor:
        return super().attend(states, torch.full_like(lengths, states.shape[1]))


class SumsOverQueries(Sound):
    def attend(self, states: Tensor, lengths: Tensor) -> Tensor:
        weights = super().attend(states, lengths)
        return weights / (weights.sum(2, keepdim=True) + 1e-9)


class _OtherMaps(Sound):
    """Encodes well, but hands other maps to the visitor."""

    def other(self, found: AttentionMap) -> AttentionMap:
        raise NotImplementedError

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        return super().visit_attention(audio, lambda found: visit(self.other(found)))


class OneHead(_OtherMaps):
    def other(self, found: AttentionMap) -> AttentionMap:
        return replace(found, weights=found.weights[:, :1])


class WrongOrder(_OtherMaps):
    def other(self, found: AttentionMap) -> AttentionMap:
        return replace(found, block=3 - found.block)


class NanInPadding(_OtherMaps):
    def other(self, found: AttentionMap) -> AttentionMap:
        padded = torch.arange(found.weights.shape[2]) >= found.lengths[:, None]
        weights = found.weights.masked_fill(padded[:, None, :, None], torch.nan)
        return replace(found, weights=weights)


class OtherStatesOnVisit(Sound):
    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        states = super().visit_attention(audio, visit)
        return HiddenStates(tuple(x * 1.001 for x in states.layers), states.lengths)


class HidesItsHeads(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, heads=())


class StaysEager(Sound):
    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        handle = self.mix.register_forward_hook(lambda module, args, output: None)
        states = super().visit_attention(audio, visit)
        handle.remove()  # not reached where the visitor raises
        return states


class Swallows(Sound):
    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        def calm(found: AttentionMap) -> None:
            try:
                visit(found)
            except Exception:
                return

        return super().visit_attention(audio, calm)


class Detached(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        states = super().forward(audio)
        return HiddenStates(tuple(x.detach() for x in states.layers), states.lengths)


class InfiniteGradient(Sound):
    def forward(self, audio: Waveforms) -> HiddenStates:
        states = super().forward(audio)
        zero = (states.layers[0] * 0).abs().sqrt()
        return HiddenStates(tuple(x + zero for x in states.layers), states.lengths)


BROKEN: list[tuple[type[Sound], str, str]] = [
    (WrongWidth, "spec", "is 8 wide, the spec says 9"),
    (WrongCount, "spec", "parameters, the spec says 1"),
    (MissingLayer, "spec", "expected 3 hidden states for 2 blocks, got 2"),
    (NotFinite, "encoding", "is not finite"),
    (Halves, "encoding", "is torch.float16; expected torch.float32"),
    (NoStates, "encoding", "returns a Tensor; expected auscult.contracts.HiddenStates"),
    (Fractions, "encoding", "num_frames gives torch.float32 of shape (6,) for 6 lengths"),
    (NoVisit, "attention", "define visit_attention, or name no heads"),
    (NoVisit, "attention_scope", "visit_attention is not defined"),
    (OneFrameMore, "frame_arithmetic", "num_frames says"),
    (WrongGeometry, "frame_arithmetic", "lie behind the last frame"),
    (ShiftedGeometry, "frame_arithmetic", "puts frame centres at"),
    (TakesShortAudio, "short_audio", ""),
    (RaisesElse, "short_audio", "raise ValueError"),
    (Drifts, "determinism", "differs between two runs"),
    (SeesNeighbours, "row_independence", "in a batch padded to"),
    (SeesPadding, "row_independence", "in a batch padded to"),
    (ChangesAudio, "inputs_untouched", "changes the samples"),
    (LeavesHooks, "state_untouched", "forward changes the number of hooks"),
    (Counts, "state_untouched", "forward changes the weight calls"),
    (StartsTraining, "state_untouched", "forward changes the training mode"),
    (DrawsGlobally, "state_untouched", "torch's global random state"),
    (AttendsToPadding, "attention", "rows sum to one only to"),
    (SumsOverQueries, "attention", "rows sum to one only to"),
    (OneHead, "attention", "has 1 heads, the spec says 2"),
    (WrongOrder, "attention", "in order, got [2, 1]"),
    (NanInPadding, "attention", "is not finite"),
    (OtherStatesOnVisit, "attention", "by visit_attention instead of forward"),
    (HidesItsHeads, "attention", "does not refuse"),
    (StaysEager, "attention_scope", "with a visitor that raises changes the number of hooks"),
    (Swallows, "attention_scope", "swallows"),
    (Detached, "gradients", "no gradient flows"),
    (InfiniteGradient, "gradients", "not finite"),
]


def test_a_sound_encoder_passes_every_check() -> None:
    findings = list(run_checks(Sound().eval()))
    assert [f for f in findings if not f.passed or f.why] == []
    assert len(findings) >= 10


@pytest.mark.parametrize(
    ("broken", "check", "why"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_encoder_fails(broken: Callable[[], Sound], check: str, why: str) -> None:
    with pytest.raises(AssertionError) as caught:
        getattr(testing, f"check_{check}")(broken().eval())
    assert why in str(caught.value)
    assert str(caught.value).strip().endswith(".")  # a sentence


def test_every_check_has_a_broken_encoder() -> None:
    checks = [check.__name__.removeprefix("check_") for check in upstream_checks()]
    assert len(checks) == len(set(checks)) >= 10
    assert {check for _, check, _ in BROKEN} == set(checks)


def test_an_error_inside_the_encoder_is_a_failed_check() -> None:
    class Raises(Sound):
        def forward(self, audio: Waveforms) -> HiddenStates:
            raise RuntimeError("out of order")

    (finding,) = run_checks(Raises())  # and nothing else, which would say the same
    assert not finding.passed and finding.why == "RuntimeError: out of order"

    class Asserts(Sound):
        def forward(self, audio: Waveforms) -> HiddenStates:
            assert audio.sample_rate == 8000
            return super().forward(audio)

    (finding,) = run_checks(Asserts())
    assert not finding.passed and finding.why.startswith("AssertionError")


def test_what_does_not_apply_is_said() -> None:
    class Bare(Sound):
        """Without attention maps and trainable weights."""

        def __init__(self) -> None:
            super().__init__()
            self.spec = replace(self.spec, heads=())
            self.requires_grad_(False)

        def visit_attention(self, audio: Waveforms, visit: Any) -> HiddenStates:
            return Upstream.visit_attention(self, audio, visit)

    why = {finding.check: finding.why for finding in run_checks(Bare()) if finding.why}
    assert why == {
        "attention": "no attention",
        "attention_scope": "no attention",
        "gradients": "no trainable weights",
    }
