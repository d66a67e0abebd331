"""Keras models as native modules of torch; nothing here needs Keras."""
