"""Files that a bundle carries verbatim; none of them imports whet."""
