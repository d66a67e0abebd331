"""LOAD: models of every format, behind one port."""
