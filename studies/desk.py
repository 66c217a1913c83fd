"""What a worker has open: one encoder at a time, and one corpus."""

from typing import TYPE_CHECKING

from auscult.errors import UserError

from .bench import Bench
from .item import Item

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.upstream import Upstream


class Desk:
    """Gives encoders and corpora by address; keeps the last of each."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._encoder: tuple[str, Upstream] | None = None
        self._corpora: dict[tuple[str, str | None, int | None], Corpus] = {}

    @property
    def device_type(self) -> str:
        """The kind of device, never its index."""
        return self.bench.device.partition(":")[0]

    def encoder(self, address: str) -> "Upstream":
        """Return the encoder that goes under ``address``, on the device."""
        if self._encoder is None or self._encoder[0] != address:
            self._encoder = None  # one at a time in memory
            self._encoder = (address, self.bench.encoder(address))
        return self._encoder[1]

    def corpus(self, address: str, split: str | None, limit: int | None) -> "Corpus":
        """Return the corpus that goes under ``address``, as many utterances of each split."""
        key = (address, split, limit)
        if key not in self._corpora:
            self._corpora = {key: self.bench.corpus(address, split).limited(limit)}
        return self._corpora[key]

    def encoder_of(self, item: Item) -> "Upstream":
        """Return an item's encoder.

        Raises:
            UserError: It has other weights than when the item was planned.
        """
        encoder = self.encoder(item.upstream["address"])
        if encoder.spec.sha256 != item.upstream["sha256"]:
            raise UserError(
                f"{item.upstream['address']} has other weights than when this was planned; "
                "run the command again."
            )
        return encoder

    def corpus_of(self, item: Item) -> "Corpus":
        """Return an item's corpus.

        Raises:
            UserError: It has other audio or labels than when the item was planned.
        """
        about = item.corpus
        corpus = self.corpus(about["address"], item.what.get("split"), about["limit"])
        for name, sha256 in about["sha256"].items():
            if corpus.sha256.get(name) != sha256:
                raise UserError(
                    f"{about['address']}: the {name} split is another than when this was planned; "
                    "run the command again."
                )
        return corpus
