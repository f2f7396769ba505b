"""A model as ONNX graphs: the graph writers, and the export that makes a bundle of them."""
