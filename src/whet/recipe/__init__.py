"""COMPOSE: ordered lists of passes, checked before any work, run step by step, cached."""
