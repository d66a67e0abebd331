"""OPTIMIZE: one folder a family, one file a realisation. Families do not know each other."""
