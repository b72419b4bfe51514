"""What the machine is called, and what it has."""

import pytest
import torch

from multistride import cpu, device


def test_the_machine_is_named(monkeypatch):
    # Guards: a ratio measured on a GPU under the name of the CPU beside it.
    monkeypatch.setattr(device, "cpu_name", lambda: "Some CPU")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    assert device.device_name(torch.device("cpu")) == "Some CPU"
    assert device.device_name(torch.device("cuda")) == "Some GPU, Some CPU"


def test_features_are_those_of_the_processor(monkeypatch):
    # Guards: "avx_vnni" found inside the name of another feature; no /proc/cpuinfo, as on macOS.
    monkeypatch.setattr(cpu, "_cpu_info", lambda: "flags : fpu avx2 avx_vnni_int8 amx_bf16")
    assert cpu.cpu_features() == ["avx2", "amx_bf16"]
    monkeypatch.setattr(cpu, "_cpu_info", lambda: "")
    assert cpu.cpu_features() == []
    assert cpu.cpu_name()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags: avx2 avx512f", False),
        ("x86_64", "flags: avx512_vnni", True),
        ("AMD64", "flags: avx_vnni", True),
        ("aarch64", "", True),
    ],
)
def test_which_cpus_multiply_int8(monkeypatch, machine, flags, expected):
    # Guards: an old x86 taken for a new one; ARM, which has no such flag, taken for an old x86.
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "_cpu_info", lambda: flags)
    assert cpu.multiplies_int8() is expected
