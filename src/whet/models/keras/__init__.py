"""Keras models: opened, described, stored."""
