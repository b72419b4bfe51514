"""The int8 engine: ONNX Runtime on CPUs."""

import os

# ONNX Runtime 1.32 writes a device number into the cache of its user and reports to its makers,
# from its import on. Nothing here uses the network unless it is asked to; who wants that sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
