"""Graph: the same computation in fewer, cheaper nodes and fewer bytes."""
