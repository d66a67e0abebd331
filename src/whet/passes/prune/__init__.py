"""Prune: set weights to zero, or take channels away."""
