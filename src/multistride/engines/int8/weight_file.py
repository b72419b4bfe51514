"""One file for the large constants of all graphs of a directory, which ONNX Runtime maps.

Graphs share weights: a step of one slot and one of several, the embeddings of encoder and decoder.
In a file they are stored once. What is mapped is no copy, and of an embedding only the rows that
are looked up come into memory.
"""

from __future__ import annotations

from hashlib import sha256
from typing import IO

from onnx import TensorProto, load_model_from_string

from multistride.model.directory import INT8_WEIGHTS

LEAST = 1 << 16
"""Bytes of a constant that is stored there. Constants begin at multiples of as many, which every
system can map."""


class WeightFile:
    """Moves constants out of graphs into an open file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def lightened(self, graph: bytes) -> bytes:
        """Return a graph that names its large constants in place of holding them."""
        model = load_model_from_string(graph)
        for tensor in model.graph.initializer:
            content = tensor.raw_data
            if len(content) >= LEAST:
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                place = {"offset": self._place(content), "length": len(content)}
                for key, value in {"location": INT8_WEIGHTS, **place}.items():
                    tensor.external_data.add(key=key, value=str(value))
        lightened: bytes = model.SerializeToString()
        return lightened

    def _place(self, content: bytes) -> int:
        """Return where a constant begins in the file; it is written unless it is there."""
        digest = sha256(content).digest()
        if digest not in self._places:
            place = LEAST * -(-self._file.tell() // LEAST)
            self._file.seek(place)
            self._file.write(content)
            self._places[digest] = place
        return self._places[digest]
