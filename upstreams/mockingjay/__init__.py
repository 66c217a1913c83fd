"""Mockingjay and Audio ALBERT: BERT blocks on log-mel features, each its own or all of them one."""

from .checkpoint import Checkpoint, read_mockingjay
from .encoder import MockingjayUpstream, load, load_shape
from .front_end import AlbertFrontEnd, FrontEnd, OnlineFrontEnd
from .network import Dimensions, Mockingjay, SpecHead, draw_mockingjay

__all__ = [
    "AlbertFrontEnd",
    "Checkpoint",
    "Dimensions",
    "FrontEnd",
    "Mockingjay",
    "MockingjayUpstream",
    "OnlineFrontEnd",
    "SpecHead",
    "draw_mockingjay",
    "load",
    "load_shape",
    "read_mockingjay",
]
