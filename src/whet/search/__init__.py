"""SEARCH: candidates, the journal on disk, the choice, and its proof."""
