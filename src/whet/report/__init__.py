"""REPORT: Markdown and figures, from saved results alone."""
