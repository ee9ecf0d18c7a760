from __future__ import annotations

import pytest
import torch

from whispertune.errors import RecipeError
from whispertune.system.precision import Precision, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(RecipeError, match="sees no GPU"):
        resolve_device("cuda")
    with pytest.raises(RecipeError, match="sees no GPU"):
        resolve_device("cuda:1")
    with pytest.raises(RecipeError, match="use auto, cpu, cuda or cuda:N"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


def test_devices_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("meta", "mps", "xla"):
        with pytest.raises(RecipeError, match="use auto, cpu, cuda or cuda:N"):
            resolve_device(device)
    with pytest.raises(RecipeError, match="2 GPUs"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_named_precisions(name: str, dtype: torch.dtype) -> None:
    precision = resolve_precision(name, CPU)  # type: ignore[arg-type]
    assert (precision.name, precision.dtype) == (name, dtype)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_on_cpu(monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast, raising=False)
    assert resolve_precision("auto", CPU).dtype == dtype


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_gpu(monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype) -> None:
    # As PyTorch answers: any GPU computes in bf16, the older ones by way of float32.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or fast)
    assert resolve_precision("auto", torch.device("cuda")).dtype == dtype


@pytest.mark.parametrize(("capability", "there"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_is_asked_for_and_told(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], there: bool) -> None:
    """In products and convolutions; fp32 rounds neither."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda")
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    if there:
        precision = resolve_precision("tf32", gpu)
        assert (precision.name, precision.dtype) == ("tf32", torch.float32)
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    else:
        with pytest.raises(RecipeError, match=r"tf32, which needs an NVIDIA GPU"):
            resolve_precision("tf32", gpu)
    assert resolve_precision("fp32", gpu) == Precision("fp32")
    assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")


def test_a_cpu_has_no_tf32() -> None:
    with pytest.raises(RecipeError, match="use fp32 or auto"):
        resolve_precision("tf32", CPU)
