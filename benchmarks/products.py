"""Time one matrix product by every library call that could carry an int8 engine.

    OMP_NUM_THREADS=1 python benchmarks/products.py [--json FILE]

Prints microseconds by shape and number of rows. Every candidate computes float32 rows x weight +
bias to float32, whatever happens in between. The candidates are timed in turns, many times; the
figure is the 20th percentile, since other work on the machine can only slow a call.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

Product = Callable[[Tensor], Tensor]

SHAPES = {
    "base qkv": (512, 1536),
    "base attention out": (512, 512),
    "base widen": (512, 2048),
    "base narrow": (2048, 512),
    "base vocabulary": (512, 32000),
    "small qkv": (256, 768),
    "small attention out": (256, 256),
    "small widen": (256, 1024),
    "small narrow": (1024, 256),
    "small vocabulary": (256, 8000),
}
ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
STEP = 0.05
"""What activations are rounded to where that is fixed."""


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 weights with one scale for each output channel."""
    scale = weight.abs().amax(1).clamp(min=1e-8) / 127
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def fbgemm_packed(weight: Tensor, bias: Tensor | None, engine: str) -> object:
    """Return weights packed for torch's quantised operators."""
    torch.backends.quantized.engine = engine
    integers, scale = quantised(weight)
    zeros = torch.zeros(len(scale), dtype=torch.long)
    made = torch._make_per_channel_quantized_tensor(integers, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(made, bias)


def dynamic_product(packed: object, x: Tensor) -> Tensor:
    """Return torch's quantised product, whose activations have one scale."""
    product: Tensor = torch.ops.quantized.linear_dynamic(x, packed)
    return product


def candidates(weight: Tensor, bias: Tensor) -> dict[str, Product]:
    """Return every candidate for one weight."""
    integers, scale = quantised(weight)
    packed_float = torch.ops.mkldnn._reorder_linear_weight(weight)
    brain, brain_bias = weight.bfloat16(), bias.bfloat16()
    packed_brain = torch.ops.mkldnn._reorder_linear_weight(brain)
    found: dict[str, Product] = {
        "float32": lambda x: functional.linear(x, weight, bias),
        "float32 packed (oneDNN)": lambda x: torch.ops.mkldnn._linear_pointwise(
            x, packed_float, bias, "none", [], ""
        ),
        "bfloat16 packed (oneDNN)": lambda x: torch.ops.mkldnn._linear_pointwise(
            x.bfloat16(), packed_brain, brain_bias, "none", [], ""
        ).float(),
    }
    for engine in ("fbgemm", "x86", "onednn"):
        packed = fbgemm_packed(weight, bias, engine)
        found[f"{engine} dynamic, per tensor"] = partial(dynamic_product, packed)
    bare = fbgemm_packed(weight, None, "fbgemm")
    full = fbgemm_packed(weight, bias, "fbgemm")
    static = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    found["fbgemm static scale"] = lambda x: static(x, 0.05, 128, full)

    def per_row(x: Tensor) -> Tensor:
        largest = torch.linalg.vector_norm(x, float("inf"), 1, True)
        return torch.addcmul(bias, static(x / largest, 1 / 127, 128, bare), largest)

    found["fbgemm per row"] = per_row
    prepacked = torch.ops.onednn.qlinear_prepack(integers, None)
    w_zeros = torch.zeros(len(scale), dtype=torch.int32)

    def onednn_row(x: Tensor) -> Tensor:
        factor = torch.linalg.vector_norm(x, float("inf"), 1, True).div_(127)
        whole = (x / factor).round_().to(torch.int8)
        product = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 0, prepacked, scale, w_zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(bias, product, factor)

    found["onednn qlinear per row"] = onednn_row

    def onednn_fixed(x: Tensor) -> Tensor:
        whole = torch.add(torch.tensor(128.5), x, alpha=1 / STEP).clamp_(0, 255.5).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, STEP, 128, prepacked, scale, w_zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return product

    found["onednn qlinear, fixed scale"] = onednn_fixed
    transposed = integers.t().contiguous()

    def int_mm(x: Tensor) -> Tensor:
        factor = torch.linalg.vector_norm(x, float("inf"), 1, True).div_(127)
        whole = (x / factor).round_().to(torch.int8)
        return torch.addcmul(bias, torch._int_mm(whole, transposed) * scale, factor)

    found["_int_mm per row"] = int_mm
    half_scale = scale.bfloat16()
    found["_weight_int8pack_mm (bfloat16 rows)"] = lambda x: (
        torch._weight_int8pack_mm(x.bfloat16(), integers, half_scale).float() + bias
    )
    found.update(onnx_runtime(weight, bias, integers, scale))
    return found


def onnx_runtime(
    weight: Tensor, bias: Tensor, integers: Tensor, scale: Tensor
) -> dict[str, Product]:
    """DynamicQuantizeMatMul, MatMulIntegerToFloat and MatMulNBits as graphs; the time includes the
    call of `run`.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    features, width = weight.shape[1], weight.shape[0]

    def session(nodes: list[object], constants: list[object]) -> Product:
        rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, features])
        product = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, width])
        graph = helper.make_graph(nodes, "product", [rows], [product], constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        runner = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return lambda x: runner.run(None, {"x": x.numpy()})[0]

    def constant(array: np.ndarray, name: str) -> object:
        return numpy_helper.from_array(np.ascontiguousarray(array), name)

    names = ["x", "w", "s", "", "b"]
    dynamic = helper.make_node("DynamicQuantizeMatMul", names, ["y"], domain="com.microsoft")
    parts = [
        constant(integers.t().numpy(), "w"),
        constant(scale.numpy(), "s"),
        constant(bias.numpy(), "b"),
    ]
    found = {"ONNX Runtime dynamic, per tensor": session([dynamic], parts)}
    integral = {"s": np.float32(STEP), "z": np.uint8(128), "v": scale.numpy()}
    names = ["q", "w", "s", "v", "z", "", "b"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft"),
    ]
    known = [constant(np.asarray(value), name) for name, value in integral.items()]
    found["ONNX Runtime MatMulIntegerToFloat, fixed scale"] = session(
        nodes, [*known, parts[0], parts[2]]
    )
    for bits in (8, 4):
        found[f"ONNX Runtime MatMulNBits, {bits} bit"] = n_bits(weight, bits, session, constant)
    return found


def n_bits(
    weight: Tensor, bits: int, session: Callable[..., Product], constant: Callable[..., Any]
) -> Product:
    """Weights in blocks of 32 with a scale each, computed in int8 (accuracy level 4), without
    bias.
    """
    width, features = weight.shape
    block, middle = 32, 2 ** (bits - 1)
    blocks = weight.view(width, features // block, block)
    scale = blocks.abs().amax(2, keepdim=True).clamp(min=1e-8) / (middle - 1)
    integers = (blocks / scale).round().add(middle).clamp(0, 2 * middle - 1).to(torch.uint8)
    if bits == 4:
        integers = integers[..., ::2] | (integers[..., 1::2] << 4)
    choices = {"K": features, "N": width, "bits": bits, "block_size": block, "accuracy_level": 4}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **choices
    )
    return session(
        [node], [constant(integers.numpy(), "w"), constant(scale.flatten().numpy(), "s")]
    )


def timed(products: dict[str, Product], rows: Tensor, seconds: float) -> dict[str, float]:
    """Return microseconds per call; the candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in products}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(next(iter(times.values()))) < 8:
        for name, product in products.items():
            product(rows)
            began = time.perf_counter()
            product(rows)
            times[name].append(1e6 * (time.perf_counter() - began))
    return {name: float(np.percentile(each, 20)) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    table: dict[str, dict[str, dict[str, float]]] = {}
    with torch.inference_mode():
        for shape in arguments.shapes:
            features, width = SHAPES[shape]
            weight, bias = torch.randn(width, features) * features**-0.5, torch.randn(width)
            products = working(
                candidates(weight, bias), torch.randn(2, features), functional.linear, weight, bias
            )
            for rows in ROWS:
                found = timed(products, torch.randn(rows, features), arguments.seconds)
                for name, microseconds in found.items():
                    table.setdefault(shape, {}).setdefault(name, {})[str(rows)] = round(
                        microseconds, 1
                    )
            show(shape, table[shape])
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def working(
    products: dict[str, Product],
    rows: Tensor,
    exact: Callable[..., Tensor],
    weight: Tensor,
    bias: Tensor,
) -> dict[str, Product]:
    """Those that run here and compute what they should (four bits and a fixed scale are only near
    it).
    """
    kept = {}
    for name, product in products.items():
        try:
            found = torch.as_tensor(product(rows)).float()
        except (RuntimeError, NotImplementedError) as error:
            print(f"left out: {name}: {str(error).splitlines()[0][:90]}")
            continue
        expected = exact(rows, weight, None if "NBits" in name else bias)
        off = float((found - expected).abs().mean() / expected.abs().mean())
        if off > (0.15 if "4 bit" in name or "static" in name else 0.05):
            print(f"left out: {name}: off by {off:.3f}")
            continue
        kept[name] = product
    return kept


def show(shape: str, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{shape:38}" + "".join(f"{rows:>8}" for rows in ROWS), flush=True)
    for name, times in found.items():
        print(f"{name:38}" + "".join(f"{times[str(rows)]:8.0f}" for rows in ROWS), flush=True)


if __name__ == "__main__":
    main()
