"""Encoders: one family a file, all behind one contract."""
