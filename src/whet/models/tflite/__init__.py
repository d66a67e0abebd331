"""TFLite files: the flatbuffers that LiteRT runs."""
