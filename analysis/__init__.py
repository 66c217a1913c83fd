"""Label-free measurements: what attention heads repeat."""
