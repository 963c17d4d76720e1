"""Measure implicit meta-learning: which sources a model learns to believe by ordinary training."""

__version__ = "0.1.0"
