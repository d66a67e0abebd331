"""Quantize: weights and activations in fewer bits."""
