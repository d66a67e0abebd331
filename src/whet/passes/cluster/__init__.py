"""Cluster: weights that share a few values."""
