"""Whoever is put through a protocol: networks, and reference learners that read definitions as data."""
