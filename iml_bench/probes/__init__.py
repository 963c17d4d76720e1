"""Analyses that look into a learner between the steps of a schedule, and change no outcome."""
