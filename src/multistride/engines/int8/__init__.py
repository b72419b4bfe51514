"""The int8 engine: ONNX Runtime on CPUs."""
