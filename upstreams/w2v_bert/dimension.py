"""How large a w2v-BERT is: one record of numbers, from which every part is built."""

from dataclasses import asdict, dataclass

from auscult.errors import UserError, quoted

from ..configuration import MAX_LAYERS, MAX_WIDTH

KERNEL, STRIDE = 3, 2  # of both convolutions over the filterbanks, along time and along filters
_MOST_FILTERS = 256  # bins of the spectrum that filters are made of
_LEAST_FILTERS = 7  # two convolutions leave one


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a w2v-BERT; the defaults are those of XL.

    Two are not published. A feed-forward part of four times ``dim`` meets the printed 0.6 and 1.0
    billion parameters. Conformers mostly have as many ``channels`` as ``dim``; with these the
    quantiser's map of 19 x 1024 features would take XXL to 1.07 billion, so there are fewer here.
    """

    contrastive_blocks: int = 12
    masked_prediction_blocks: int = 12
    dim: int = 1024
    heads: int = 8
    feed_forward: int = 4096
    conv_kernel: int = 5  # frames, of the depthwise convolution in each block
    filters: int = 80  # mel filters of the input
    channels: int = 128  # of both convolutions over the filterbanks
    codebook: int = 1024  # vectors
    code_dim: int = 1024

    def __post_init__(self) -> None:
        blocks = ("contrastive_blocks", "masked_prediction_blocks")
        for name, value in asdict(self).items():
            least = 0 if name in blocks else _LEAST_FILTERS if name == "filters" else 1
            most = MAX_LAYERS if name in blocks else MAX_WIDTH
            if type(value) is not int or not least <= value <= most:
                raise UserError(
                    f"w2v-BERT's {name} is {quoted(value)}; expected a whole number of at least "
                    f"{least}, {most} at most."
                )
        if not self.num_layers:
            raise UserError("A w2v-BERT needs a block at least, contrastive or masked-prediction.")
        if self.filters > _MOST_FILTERS:
            raise UserError(
                f"w2v-BERT's filters are {self.filters}; expected {_MOST_FILTERS} at most."
            )
        if self.dim % self.heads:
            raise UserError(f"w2v-BERT's dim {self.dim} cannot be cut into {self.heads} heads.")
        if self.conv_kernel % 2 == 0:
            raise UserError(
                f"w2v-BERT's conv_kernel is {self.conv_kernel}; it must be odd to keep all frames."
            )

    @property
    def num_layers(self) -> int:
        """Blocks of both modules."""
        return self.contrastive_blocks + self.masked_prediction_blocks

    @property
    def feature_dim(self) -> int:
        """Width of the feature encoder's output: channels times filters left by subsampling."""
        return self.channels * subsampled(subsampled(self.filters))


def subsampled(size: int) -> int:
    """Return what one of the two convolutions leaves of ``size`` steps or filters."""
    return max((size - KERNEL) // STRIDE + 1, 0)
