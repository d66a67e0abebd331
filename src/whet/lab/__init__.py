"""LAB: the laboratory on compressing image classifiers, in one command."""
