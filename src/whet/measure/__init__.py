"""MEASURE: quality, latency, memory, size; the statistics and the verdict."""
