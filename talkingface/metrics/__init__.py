"""Measures of a generated clip against the real one. NumPy in, numbers out."""
