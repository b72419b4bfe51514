"""Devices, precisions and threads of PyTorch."""

from __future__ import annotations

import os
from typing import Literal

import torch

from multistride.cpu import check_threads, cpu_features, cpu_name
from multistride.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the GPU if there is one, else the CPU.

    Raises `UsageError` for a device that is not there, and for what is no name.
    """
    if not isinstance(name, str | torch.device):
        raise UsageError(
            f"device {name!r} was asked for; allowed are auto, cpu, cuda and cuda:N: give one as a "
            "string"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"device {name!r} was asked for; allowed are auto, cpu, cuda and cuda:N"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} was asked for; allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was asked for, but PyTorch sees no GPU here: use cpu or auto"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} was asked for; PyTorch sees cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}: use one of them, or auto"
        )
    return device


def pick_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision to compute in.

    "auto" is bfloat16 autocast where the hardware multiplies bfloat16 matrices, else float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(cpu_features()) else "float32"


def half_precision(device: torch.device) -> torch.dtype:
    """Return the 16-bit type of a GPU (float16 where it lacks bfloat16); float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def device_name(device: torch.device) -> str:
    """Return the hardware behind a device: GPU and processor, or the processor alone."""
    if device.type != "cuda":
        return cpu_name()
    return f"{torch.cuda.get_device_name(device)}, {cpu_name()}"


def set_threads(count: int | None) -> int:
    """Use `count` CPU threads (None: as many as PyTorch chose); return the number in use.

    Raises `UsageError` for a number below 1 or above that of the CPUs this process may use.
    """
    if count is not None:
        check_threads(count)
        torch.set_num_threads(count)
    return torch.get_num_threads()


def keep_few_kernels() -> None:
    """Let oneDNN keep 64 compiled kernels instead of 1,024, unless the environment says how many.

    It compiles one for every shape it meets and hardly any shape of a training batch comes twice:
    after 45 updates a training held 2.6 GB, with few kernels 1.6 GB, in the same time. Call it
    before the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether PyTorch raised `error` because a CPU or GPU has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
