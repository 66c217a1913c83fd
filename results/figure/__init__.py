"""Figures of results, and what the page draws of them."""
