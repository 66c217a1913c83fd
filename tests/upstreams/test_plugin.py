"""Somebody's own encoder, by a file of under 20 lines."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import auscult
from auscult.errors import UserError
from auscult.studies.company import with_baselines

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(1, 8, 400, 320)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, waves):
        x = self.front(waves[:, None]).transpose(1, 2) * self.scale
        for layer in self.layers:
            x = layer(x).tanh()
        return x
"""
WRAPPED = "import auscult\ndef Encoder():\n    return auscult.wrap(Net(), blocks='layers')\n"
TRAINED = """
def Trained(file=None):
    net = Net()
    torch.nn.init.constant_(net.layers[0].bias, 3.0)
    with torch.no_grad():
        net.scale.copy_(torch.arange(8.0))
    return auscult.wrap(net, blocks='layers')
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def written(*parts: str, name: str = "Encoder") -> str:
        (tmp_path / "my.py").write_text("".join(parts))
        return f"python:{tmp_path / 'my.py'}:{name}"

    return written


def weights(address: str, **options: int) -> dict[str, torch.Tensor]:
    return auscult.load(address, **options).state_dict()


def test_a_file_is_an_encoder_the_same_at_each_load(write: Callable[..., str]) -> None:
    address = write(NET, WRAPPED)
    one, two = auscult.load(address), auscult.load(address)
    assert one.spec == two.spec and one.spec.name == address
    assert one.spec.num_layers == 2 and one.spec.num_parameters == 3360 and not one.training
    assert one.spec.origin.startswith("my.py, sha256 ")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    plain = auscult.load(address.replace(":Encoder", ":Net"))
    assert plain.spec.num_layers == 0 and plain.spec.sha256 != one.spec.sha256
    address = write(NET, WRAPPED, "# a word\n")
    assert auscult.load(address).spec.sha256 != one.spec.sha256, "kept work becomes stale"


def test_the_random_twin_has_none_of_the_weights(write: Callable[..., str]) -> None:
    address = write(NET, WRAPPED, TRAINED, name="Trained")
    trained, drawn = weights(address), weights(f"random({address})")
    assert trained.keys() == drawn.keys()
    assert not any(torch.equal(trained[name], drawn[name]) for name in trained)
    assert float(drawn["module.layers.0.bias"].abs().max()) < 1, "as its own layer draws it"
    assert not torch.equal(weights(f"random({address}, 3)")["module.scale"], drawn["module.scale"])
    again = weights(f"random({address}, seed=3)")
    assert all(torch.equal(x, again[n]) for n, x in weights(f"random({address})", seed=3).items())


def test_normed_weights_are_drawn_too(write: Callable[..., str]) -> None:
    for norm in ("torch.nn.utils.weight_norm", "torch.nn.utils.parametrizations.weight_norm"):
        text = f"def Normed():\n    net = Net()\n    {norm}(net.front)\n    return net\n"
        address = write(NET, text, name="Normed")
        trained, drawn = weights(address), weights(f"random({address})")
        assert not any(torch.equal(trained[name], drawn[name]) for name in trained)


def test_what_follows_the_name_a_subnet_and_a_seed_are_handed_on(
    write: Callable[..., str],
) -> None:
    text = """
def Encoder(file="", *, subnet="largest", seed=None):
    net = Net()
    net.said = (file, subnet, seed)
    return net
"""
    address = write(NET, text)
    for spec, said in {
        address: ("", "largest", None),
        f"{address}:models/a.pt@small": ("models/a.pt", "small", None),
        f"random({address}@small, seed=5)": ("", "small", 5),
        f"random({address})": ("", "largest", 0),
    }.items():
        encoder = auscult.load(spec)
        assert encoder.module.said == said and encoder.spec.name == spec  # type: ignore[union-attr]
    assert auscult.load(f"{address}@small").spec.subnet == "small"


def test_company(write: Callable[..., str]) -> None:
    address = write(NET, WRAPPED)
    assert with_baselines([address]) == [address, f"random({address})", "log_mel"]
    bare = write(
        "from torch import nn\nclass Bare(nn.Module):\n    def forward(self, waves):\n"
        "        return waves.unfold(1, 400, 320)\n",
        name="Bare",
    )
    assert with_baselines([bare]) == [bare, "log_mel"]
    with pytest.raises(UserError, match="no weights to draw; write python:"):
        auscult.load(f"random({bare})")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def Encoder(size): pass\n", r"called as Encoder\(\), and takes \(size\)"),
        ("def Encoder(): return 3\n", "makes a int; expected an nn.Module"),
        ("Encoder = Net()\n", "is a Net that is made already"),
        ("Encoder = 3\n", "is an int that is made already"),
        ("class Encoder(Net):\n  def __init__(self):\n    1 / 0\n", r"ZeroDivisionError.*line 19"),
        ("class Encoder(Net):\n  def forward(self, x):\n    return x @ x\n", r"my.py, line 19"),
        (
            "class Encoder(Net):\n  def forward(self, x):\n    return x\n",
            r"expected states \(batch",
        ),
        (
            "from auscult.upstream import Upstream\nclass Encoder(Upstream):\n"
            "  def forward(self, x): pass\n  def num_frames(self, x): pass\n",
            "without a spec; set self.spec",
        ),
    ],
)
def test_what_is_no_encoder(write: Callable[..., str], text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        auscult.load(write(NET, text))


def test_options_and_subnets_that_it_does_not_take(write: Callable[..., str]) -> None:
    address = write(NET, WRAPPED)
    for spec, sentence in {
        f"{address}@small": "takes no subnet, and 'small' was given",
        f"{address}?heads=3": "python takes no options",
        f"{address}:file.pt": r"called as Encoder\('file.pt'\)",
        "python:my.py": "expected python:FILE.py:NAME",
    }.items():
        with pytest.raises(UserError, match=sentence):
            auscult.load(spec)


def test_a_file_whose_name_has_an_at(tmp_path: Path) -> None:
    (tmp_path / "me@home.py").write_text(NET)
    assert auscult.load(f"python:{tmp_path}/me@home.py:Net").spec.dim == 8


def test_s3prl_takes_it_by_its_address(write: Callable[..., str]) -> None:
    auscult.register_s3prl()
    from s3prl.nn import S3PRLUpstream

    address = write(NET, WRAPPED)
    upstream = S3PRLUpstream("auscult", path_or_url=address).eval()
    states, lengths = upstream(torch.randn(2, 8000), torch.tensor([8000, 6000]))
    assert len(states) == 3 and states[0].shape[-1] == 8
    assert S3PRLUpstream("auscult", path_or_url=f"random({address})") is not None


def test_a_seed_that_draws_nothing_is_no_twin(write: Callable[..., str]) -> None:
    text = "def Encoder(seed=0):\n    torch.manual_seed(7)\n    return Net()\n"
    address = write(NET, text)
    assert auscult.load(address).spec.dim == 8
    with pytest.raises(UserError, match="takes a seed, and has the same weights for two"):
        auscult.load(f"random({address})")
