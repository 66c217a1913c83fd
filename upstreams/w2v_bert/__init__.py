"""w2v-BERT of 2021 at any size: an encoder of two conformer modules, and how it is pretrained."""

from .checkpoint import load_w2v_bert, save_w2v_bert
from .dimension import Dimensions
from .encoder import W2vBertUpstream, load, load_shape
from .model import Pretraining, Quantized, W2vBert, build_w2v_bert, xl, xxl

__all__ = [
    "Dimensions",
    "Pretraining",
    "Quantized",
    "W2vBert",
    "W2vBertUpstream",
    "build_w2v_bert",
    "load",
    "load_shape",
    "load_w2v_bert",
    "save_w2v_bert",
    "xl",
    "xxl",
]
