"""Reproduce the papers: `trainings`, `papers`, `figures`, `robustness`, `head_motion`.

Nothing that makes or measures a video needs this package.
"""
