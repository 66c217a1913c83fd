"""s3prl's encoders behind our contract: its own numbers, and no leak from row to row."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from auscult import bridge
from auscult.address import Address, parse_address
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.precision import precision_of
from auscult.testing import run_checks
from auscult.upstreams import load_upstream
from auscult.upstreams.s3prl_upstream import S3prlUpstream, load

ROWS = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (4000, 2500, 4000, 801)]


class Leaky(nn.Module):
    """What padding does to most of s3prl's upstreams: every frame sees the whole padded row."""

    def __init__(self, dims: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.layers = [nn.Linear(1, dim) for dim in dims]
        for i, layer in enumerate(self.layers):
            self.add_module(f"layer_{i}", layer)
        self.batches: list[int] = []

    def get_downsample_rates(self, key: str) -> int:
        return 100

    def forward(self, wavs: list[torch.Tensor]) -> dict[str, Any]:
        print("chatter")
        self.batches.append(len(wavs))
        padded = pad_sequence(wavs, batch_first=True)
        frames = padded.unfold(1, 100, 100).mean(-1, keepdim=True) - padded.mean(1)[:, None, None]
        return {"hidden_states": [layer(frames) for layer in self.layers]}


def _leaky(**options: Any) -> S3prlUpstream:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return S3prlUpstream(Leaky(**options).eval(), Address("s3prl", "leaky"))


def test_fbank_is_s3prls() -> None:
    encoder = load_upstream("s3prl:fbank")
    states = encoder(Waveforms.of(ROWS))
    model = bridge.build_s3prl_upstream("fbank")
    for i, row in enumerate(ROWS):
        alone = model([row])["hidden_states"][0][0]
        assert len(alone) == states.lengths[i]
        torch.testing.assert_close(states.layers[0][i, : len(alone)], alone, rtol=0, atol=0)
    spec = encoder.spec
    assert (spec.name, spec.family, spec.num_layers, spec.dim) == ("s3prl:fbank", "s3prl", 0, 240)
    assert (spec.geometry.stride, spec.convention) == (160, "s3prl")
    assert spec.sha256 != load_upstream("s3prl:mfcc").spec.sha256


def test_a_model_is_the_same_through_s3prl_and_through_transformers(tmp_path: Path) -> None:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    theirs = load_upstream(f"s3prl:hf_hubert_custom:{tmp_path}")
    ours = load_upstream(f"hf:{tmp_path}")
    assert theirs.spec.geometry == ours.spec.geometry  # measured, and computed from the layers
    with torch.no_grad():
        a, b = theirs(Waveforms.of(ROWS)), ours(Waveforms.of(ROWS))
    assert a.lengths.tolist() == b.lengths.tolist()
    for one, other in zip(a.layers, b.layers, strict=True):
        for row, frames in enumerate(a.lengths.tolist()):
            # the same weights in the same code; only the shapes of the batches differ
            torch.testing.assert_close(one[row, :frames], other[row, :frames], rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_their_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = _leaky()
    model = encoder.model
    assert isinstance(model, Leaky)
    with torch.no_grad():
        together = encoder(Waveforms.of(ROWS))
        model.batches.clear()
        encoder(Waveforms.of(ROWS))
        assert sorted(model.batches) == [1, 1, 2]  # equal lengths go together
        for i, row in enumerate(ROWS):
            alone = encoder(Waveforms.of([row]))
            frames = int(alone.lengths)
            assert frames == together.lengths[i] == len(row) // 100
            for a, b in zip(alone.layers, together.layers, strict=True):
                torch.testing.assert_close(a[0], b[i, :frames])
        leaks = model(ROWS)["hidden_states"][0][1, :25] - together.layers[0][1, :25]
    assert float(leaks.abs().max()) > 1e-3  # the model itself does leak
    assert capsys.readouterr().out.count("chatter") == 1  # and that call was not ours


@pytest.mark.parametrize(
    ("name", "first_centre", "tolerance"),
    [
        ("fbank", 199.5, 0),  # windows of 400 samples from the first sample on
        ("linear", 0, 0.5),  # windows centred at multiples of the stride
    ],
)
def test_where_frames_lie_is_measured(name: str, first_centre: float, tolerance: float) -> None:
    geometry = load_upstream(f"s3prl:{name}").spec.geometry
    assert geometry.stride == 160
    assert geometry.centres(1)[0] == pytest.approx(first_centre, abs=tolerance)
    assert geometry.receptive_field >= 160


def test_the_contract_holds() -> None:
    found = {finding.check: finding.passed for finding in run_checks(load_upstream("s3prl:fbank"))}
    assert len(found) == 11
    assert all(found.values()), found


def test_frames_are_counted_by_encoding_each_length_once() -> None:
    encoder = _leaky()
    model = encoder.model
    assert isinstance(model, Leaky)
    assert encoder.spec.geometry.receptive_field == 100
    encoder(Waveforms.of(ROWS[:1]))
    model.batches.clear()
    lengths = torch.tensor([4000, 900, 950, 900, 799])
    assert encoder.num_frames(lengths).tolist() == [40, 9, 9, 9, 0]
    assert encoder.num_frames(lengths).tolist() == [40, 9, 9, 9, 0]
    assert model.batches == [1, 1]


def test_gradients_flow() -> None:
    encoder = _leaky()
    encoder(Waveforms.of(ROWS)).layers[1].sum().backward()
    model = encoder.model
    assert isinstance(model, Leaky)
    grad = model.layers[1].weight.grad
    assert grad is not None and float(grad.abs().sum()) > 0


def test_untrained_weights_come_from_the_seed() -> None:
    address = parse_address("s3prl:customized_upstream")
    one, same, other = (load(address, seed).spec.sha256 for seed in (1, 1, 2))
    assert one == same != other


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UserError, match=r"random\(s3prl:fbank\) is not available"):
        load_upstream("random(s3prl:fbank)")
    with pytest.raises(UserError, match="needs the name of an upstream"):
        load_upstream("s3prl:")
    with pytest.raises(UserError, match=r"tera_local': /models/x@2.ckpt does not exist"):
        load_upstream("s3prl:tera_local:/models/x@2.ckpt")
    with pytest.raises(UserError, match=r"tera_local': x@2.ckpt does not exist"):
        load_upstream("s3prl:tera_local:x@2.ckpt")
    encoder = _leaky()
    with pytest.raises(UserError, match="gives no attention maps"):
        encoder.visit_attention(Waveforms.of(ROWS), lambda _: None)
    with pytest.raises(UserError, match="an utterance of 799 samples"):
        encoder(Waveforms.of([ROWS[0], ROWS[1][:799]]))
    with pytest.raises(UserError, match="expected hidden states of one shape"):
        _leaky(dims=(3, 4))


def test_a_log_mel_inside_is_not_rounded() -> None:
    assert precision_of(_leaky(), "bfloat16") == "float32"
