"""Measures of a generated clip against the real one: from NumPy arrays to numbers."""
