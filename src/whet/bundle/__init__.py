"""SHIP: the folder that can be verified and served anywhere."""
