"""Train: recover what a compression cost, or teach a student, by the original's own outputs."""
