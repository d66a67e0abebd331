"""ONNX files: opened safely, counted, stored."""
