"""PROFILE: where parameters, bytes, MACs and time go."""
