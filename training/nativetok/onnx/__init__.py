"""Writes a model as ONNX graphs and exports it as a bundle."""
