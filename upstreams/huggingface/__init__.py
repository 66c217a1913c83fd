"""Encoders of the transformers library: folders, hub ids and named shapes."""
