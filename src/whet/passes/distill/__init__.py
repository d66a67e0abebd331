"""Distill: a compressed model, or a smaller one, learns what the original answers."""
