"""What a worker has open: one encoder at a time, and the corpora that were read."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from auscult.errors import UserError

from .bench import Bench
from .item import Item

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.upstream import Upstream


T = TypeVar("T")


class Desk:
    """Gives encoders and corpora by address; keeps the last encoder, and all corpora."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._encoder: tuple[str, Upstream] | None = None
        self._made: dict[object, Any] = {}

    def encoder(self, address: str) -> "Upstream":
        """Return the encoder that goes under ``address``, on the device."""
        if self._encoder is None or self._encoder[0] != address:
            self._encoder = None  # one at a time in memory
            self._encoder = (address, self.bench.encoder(address))
        return self._encoder[1]

    def corpus(
        self, address: str, split: str | None, limit: int | None, tested: str = "test"
    ) -> "Corpus":
        """Return the corpus that goes under ``address``, as many utterances of each split.

        Args:
            address: Of the corpus.
            split: Split column.
            limit: Utterances of each split.
            tested: The split that takes the place of test.
        """
        whole: Corpus = self.once((address, split), lambda: self.bench.corpus(address, split))
        found = whole if tested == "test" else whole.tested_on(tested)
        return self.once((address, split, limit, tested), lambda: found.limited(limit))

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return what ``make`` makes, made once for each ``key``."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

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

    def expect_code(self, item: Item, now: str) -> None:
        """See that what carries an item out is what it was planned with.

        Args:
            item: What is to be done.
            now: Fingerprint of the code and the libraries that do it.

        Raises:
            UserError: Somebody edited it before this worker began.
        """
        if item.upstream["address"] in self.bench.live:  # it is here, with what a pass left in it
            return
        if item.how["code"] != now:
            raise UserError(
                f"The code behind {item.upstream['address']} is another than when this was "
                "planned; run the command again."
            )

    def corpus_of(self, item: Item) -> "Corpus":
        """Return an item's corpus.

        Raises:
            UserError: It has other audio or labels than when the item was planned.
        """
        about = item.corpus
        tested = item.what.get("tested", "test")
        corpus = self.corpus(about["address"], item.what.get("split"), about["limit"], tested)
        for name, sha256 in about["sha256"].items():
            if corpus.sha256.get(name) != sha256:
                raise UserError(
                    f"{about['address']}: the {name} split is another than when this was planned; "
                    "run the command again."
                )
        return corpus
