"""Reproduce the tables and figures of the papers: `papers`, `figures`, `robustness`, `head_motion`.

Nothing that makes or measures a video needs this package.
"""
