"""TRY: one candidate, in processes of its own; its failure is a row in the report."""
