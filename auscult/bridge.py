"""The bridge to s3prl, both ways: our encoders in its hub, its encoders and its runner with us.

With :mod:`auscult.head` the only module that imports s3prl, and only inside functions. s3prl 0.4.18
asks for names that today's torchaudio and huggingface_hub no longer have; :func:`repair` lends them
to s3prl's own modules while those are imported and takes them away again, so that no other library
sees them. Frame counts are matched to s3prl's expectation here and nowhere else.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from auscult.contracts import HiddenStates, Waveforms
from auscult.errors import UserError, unknown
from auscult.guard import BoundedBuilding, evaluate, guarded_loading
from auscult.progress import logger
from auscult.upstream import Upstream

ENTRY = "auscult"  # our name in s3prl's hub
WITH_CHECKPOINT = ("_local", "_url", "_custom")  # endings of the hub's entries that read a file


# --- mending s3prl ---------------------------------------------------------------------------


def repair() -> None:
    """Make s3prl importable on the installed stack. Harmless when called again.

    Every s3prl module, now or later, is imported with the missing names in place, finds soundfile
    behind ``torchaudio.load`` and, in encoders, an ``eval`` that only computes sizes. Nothing
    outside s3prl is changed, but for ``argparse.Namespace`` among the classes that ``torch.load``
    accepts: s3prl's checkpoints hold one, and it is plain data.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])
    if any(isinstance(finder, _Mender) for finder in sys.meta_path):
        return
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "s3prl":
            _mend(module)
    sys.meta_path.insert(0, _Mender())


class _Mender:
    """A finder that lets the other finders find s3prl's modules, and mends their execution."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.split(".")[0] != "s3prl":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        loader = spec.loader if spec is not None else None
        if loader is None:
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _missing_names(), hushed():
                execute(module)
            _mend(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _missing_names() -> Iterator[None]:
    """Lend the names that s3prl's modules ask for while they are imported."""
    import huggingface_hub
    import torchaudio

    stand_in = _torchaudio()
    names = {
        (torchaudio, "set_audio_backend"): stand_in.set_audio_backend,
        (huggingface_hub, "HfFolder"): _Removed,
        (huggingface_hub, "Repository"): _Removed,
    }
    lent = [(owner, name) for owner, name in names if not hasattr(owner, name)]
    modules = {"torchaudio.sox_effects": stand_in.sox_effects}
    if _lacks("distutils.util"):  # Python 3.12 without setuptools' own copy
        modules |= {"distutils": ModuleType("distutils"), "distutils.util": _distutils()}
    lent_modules = [name for name in modules if name not in sys.modules]
    try:
        for owner, name in lent:
            setattr(owner, name, names[owner, name])
        for name in lent_modules:
            sys.modules[name] = modules[name]
        yield
    finally:
        for owner, name in lent:
            delattr(owner, name)
        for name in lent_modules:
            del sys.modules[name]


def _mend(module: ModuleType) -> None:
    _lend_audio(module)
    name = module.__name__
    # not in those of the hub, which counts every name in them among its entries
    if name.startswith("s3prl.upstream.") and not name.endswith(".hubconf"):
        vars(module)["eval"] = evaluate


def _lend_audio(module: ModuleType) -> None:
    """Replace torchaudio and its ``load`` in an s3prl module's namespace by the stand-ins."""
    import torchaudio

    stand_in = _torchaudio()
    for name, value in list(vars(module).items()):
        if value is torchaudio:
            setattr(module, name, stand_in)
        elif value is torchaudio.load:
            setattr(module, name, stand_in.load)


class _Removed:
    """Stands for a class that huggingface_hub 1.0 removed; s3prl imports it and rarely uses it."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise UserError(
            "s3prl's upload to the Hugging Face hub needs huggingface_hub < 1.0; upload the "
            "experiment's folder with `hf upload` instead."
        )


class _Torchaudio(ModuleType):
    """torchaudio as s3prl expects it: everything that it still has, and what it lost."""

    sox_effects: ModuleType

    @staticmethod
    def set_audio_backend(name: str | None) -> None:
        """Do nothing: there is one backend."""

    @staticmethod
    def load(path: str, *args: object, **kwargs: object) -> tuple[Tensor, int]:
        """Return samples (channel, time), float32, and their rate in Hz."""
        from auscult.decoder import open_audio

        if args or kwargs:
            raise NotImplementedError("The stand-in for torchaudio.load reads whole files only.")
        with open_audio(Path(path)) as file:
            return torch.from_numpy(file.samples().T.copy()), file.samplerate

    def __getattr__(self, name: str) -> Any:
        import torchaudio

        return getattr(torchaudio, name)


@cache
def _torchaudio() -> _Torchaudio:
    stand_in = _Torchaudio("torchaudio")
    stand_in.sox_effects = ModuleType("torchaudio.sox_effects")
    vars(stand_in.sox_effects).update(
        apply_effects_tensor=_apply_effects, apply_effects_file=_apply_effects_file
    )
    return stand_in


def _apply_effects_file(path: str, effects: Sequence[Sequence[str]]) -> tuple[Tensor, int]:
    return _apply_effects(*_Torchaudio.load(path), effects=effects)


def _apply_effects(
    samples: Tensor, rate: int, effects: Sequence[Sequence[str]]
) -> tuple[Tensor, int]:
    """Apply sox effects to ``samples`` (channel, time).

    ``channels 1`` and ``gain`` equal sox to 4e-8, ``rate`` to 6e-5 of the signal.

    Raises:
        UserError: An effect other than these three.
    """
    import soxr

    for name, *values in effects:
        if (name, *values) == ("channels", "1"):
            samples = samples.mean(dim=0, keepdim=True)
        elif name == "rate" and len(values) == 1:
            wanted = int(values[0])
            moved = soxr.resample(samples.T.numpy(), rate, wanted, quality="HQ")
            samples, rate = torch.from_numpy(moved.T.copy()), wanted
        elif name == "gain" and len(values) == 1:
            samples = samples * 10 ** (float(values[0]) / 20)
        else:
            raise UserError(
                f"s3prl asks for the sox effect {' '.join((name, *values))!r}, which the bridge "
                "does not offer (it has channels 1, rate and gain)."
            )
    return samples, rate


def _lacks(module: str) -> bool:
    if module in sys.modules:
        return False
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # its parent is missing
        return True


def _distutils() -> ModuleType:
    module = ModuleType("distutils.util")
    truths = dict.fromkeys(("y", "yes", "t", "true", "on", "1"), 1)
    truths |= dict.fromkeys(("n", "no", "f", "false", "off", "0"), 0)
    vars(module)["strtobool"] = lambda text: truths[text.lower()]
    return module


@contextlib.contextmanager
def hushed(*, stderr: bool = False) -> Iterator[None]:
    """Keep what s3prl prints off stdout, which belongs to results, and off stderr if asked to."""
    said = io.StringIO()
    notes = logging.getLogger("s3prl")
    level = notes.level
    notes.setLevel(logging.ERROR)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(said))
            if stderr:
                stack.enter_context(contextlib.redirect_stderr(said))
            yield
    finally:
        notes.setLevel(level)
    for line in said.getvalue().splitlines():
        logger.debug(f"s3prl: {line}")


# --- our encoders in s3prl -------------------------------------------------------------------


class HubUpstream(nn.Module):
    """One of our encoders as s3prl wants its upstreams: a list of waveforms in, a dict out.

    Works in ``s3prl.nn.S3PRLUpstream`` and in the legacy ``Runner``. The encoder stays in
    evaluation mode unless it is being trained: unless the module is in training mode *and*
    gradients are wanted, for s3prl leaves frozen upstreams in training mode.
    """

    def __init__(self, encoder: Upstream) -> None:
        super().__init__()
        self.encoder = encoder

    def get_downsample_rates(self, key: str) -> int:
        """Return the stride in samples; the same for every key."""
        return self.encoder.spec.geometry.stride

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Encode unpadded waveforms.

        Args:
            wavs: Mono audio at 16 kHz, each (time,).

        Returns:
            ``hidden_states``, a list of (batch, frame, dim) with ``ceil(samples / stride)`` frames
            in each row, as s3prl counts them; ``last_hidden_state``, the last of them; and
            ``lengths`` (batch,), the frames that the encoder itself calls valid.

        Raises:
            UserError: A waveform too short for one frame.
        """
        self.encoder.train(self.training and torch.is_grad_enabled())
        audio = Waveforms.of([wav.flatten() for wav in wavs]).to(wavs[0].device)
        return self.answer(self.encoder(audio), audio.lengths)

    def answer(self, states: HiddenStates, samples: Tensor) -> dict[str, Any]:
        """Return ``states`` of utterances of ``samples`` (batch,) as :meth:`forward` does."""
        layers = match_frames(states, samples, self.encoder.spec.geometry.stride)
        return {
            "hidden_states": layers,
            "last_hidden_state": layers[-1],
            "lengths": states.lengths,
        }


def match_frames(states: HiddenStates, samples: Tensor, stride: int) -> list[Tensor]:
    """Give every row ``ceil(samples / stride)`` frames: cut, or its last valid frame repeated.

    s3prl cuts rows to that many frames (its legacy featurizer to the rounded quotient) without
    asking the encoder, and would otherwise take padding for speech.

    Args:
        states: What the encoder returned.
        samples: (batch,) valid samples.
        stride: Samples per frame.

    Returns:
        One tensor for each layer, (batch, frame, dim).

    Raises:
        UserError: A row without a single valid frame.
    """
    if int(states.lengths.min()) < 1:
        row = int(states.lengths.argmin())
        raise UserError(
            f"Waveform {row} of the batch has {int(samples[row])} samples, too short for one "
            "frame; leave it out of the data."
        )
    num_frames = int(samples.max().add(stride - 1).div(stride, rounding_mode="floor"))
    last = states.lengths.unsqueeze(1) - 1  # (batch, 1)
    index = torch.arange(num_frames, device=last.device).minimum(last)  # (batch, frame)
    return [
        layer.gather(1, index.to(layer.device).unsqueeze(-1).expand(-1, -1, layer.shape[-1]))
        for layer in states.layers
    ]


def register(load: Callable[[str], Upstream]) -> None:
    """Add the entry ``auscult`` to ``s3prl.hub``; its checkpoint is any upstream spec.

    Then ``S3PRLUpstream("auscult", path_or_url="hf:/models/wavlm-base")`` and
    ``-u auscult -k "random(hubert_base)"`` work. As with every upstream of s3prl, call ``.eval()``
    on an ``S3PRLUpstream`` that is not to be trained.

    Args:
        load: Builds the encoder that a spec addresses.
    """
    repair()
    from s3prl import hub

    def auscult(ckpt: str = "", *args: object, **kwargs: object) -> HubUpstream:
        # s3prl hands every upstream model_config, refresh, ...; none of them concerns ours
        if not ckpt:
            raise UserError(
                f"s3prl's upstream {ENTRY!r} needs an upstream spec as its checkpoint, such as "
                f'S3PRLUpstream("{ENTRY}", path_or_url="fbank") or -u {ENTRY} -k fbank.'
            )
        return HubUpstream(load(ckpt)).eval()

    setattr(hub, ENTRY, auscult)


# --- s3prl's encoders and heads with us ------------------------------------------------------


def hub_names() -> list[str]:
    """Return the names of s3prl's own upstreams."""
    repair()
    from s3prl import hub

    return sorted(
        name
        for name in hub.options()  # lists imported helpers too
        if getattr(getattr(hub, name), "__module__", "").endswith(".hubconf")
    )


def build_s3prl_upstream(name: str, checkpoint: str = "") -> nn.Module:
    """Build an upstream of s3prl's hub, in evaluation mode on the CPU.

    Code in the file does not run: its pickle is read by :func:`auscult.checkpoint.read_checkpoint`,
    and the expressions that s3prl hands to ``eval`` are computed by :func:`auscult.guard.evaluate`.

    Args:
        name: Entry of s3prl's hub, such as ``fbank``, ``hubert_local`` or ``tera``. Entries of
            published models fetch their weights from the network.
        checkpoint: File, folder or address for the entries that end in ``_local``, ``_url`` or
            ``_custom``.

    Raises:
        UserError: Unknown name, checkpoint missing or not wanted, or s3prl cannot build it.
    """
    known = hub_names()
    if name not in known:
        raise unknown("s3prl upstream", name, known)
    if checkpoint and not name.endswith(WITH_CHECKPOINT):
        raise UserError(
            f"s3prl's upstream {name!r} takes no checkpoint, but {checkpoint!r} was given; the "
            "entries that read one end in _local, _url or _custom."
        )
    if not checkpoint and name.endswith(WITH_CHECKPOINT):
        raise UserError(f"s3prl's upstream {name!r} needs a checkpoint: s3prl:{name}:CHECKPOINT.")
    if name.endswith("_local") and not Path(checkpoint).exists():
        raise UserError(f"s3prl's upstream {name!r}: {checkpoint} does not exist.")
    from s3prl import hub

    options = {"ckpt": checkpoint} if checkpoint else {}
    place = Path(checkpoint)
    bounded = BoundedBuilding(place) if checkpoint and place.exists() else contextlib.nullcontext()
    try:
        with hushed(), guarded_loading(), bounded:
            model: nn.Module = getattr(hub, name)(**options)
    except UserError as error:
        raise UserError(f"s3prl's upstream {name!r}: {error}") from error
    except Exception as error:  # each family fails in its own way
        reason = f"{type(error).__name__} {error}".strip().splitlines()[0]
        source = f" from {checkpoint}" if checkpoint else ""
        raise UserError(f"s3prl cannot build its upstream {name!r}{source}: {reason}") from error
    return model.eval().cpu()  # some put themselves on a GPU where there is one


def mix_with_runner(training: type[Any]) -> type[Any]:
    """Return a subclass of s3prl's ``Runner`` whose methods ``training`` overrides."""
    repair()
    from s3prl.downstream.runner import Runner

    return type(training.__name__, (training, Runner), {"__doc__": training.__doc__})
