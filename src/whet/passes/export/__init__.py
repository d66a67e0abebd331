"""Export: from one format to another."""
