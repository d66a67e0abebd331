"""DATA: samples, split by what they may decide; preprocessing; tasks and their metrics."""
