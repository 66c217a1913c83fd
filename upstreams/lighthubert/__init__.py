"""LightHuBERT: a supernet, its search spaces and every subnet of them."""
