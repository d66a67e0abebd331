"""Pack: store weights of few values, and zeros, in as few bits as they need."""
