"""Factorize: a layer as two or three thin ones."""
