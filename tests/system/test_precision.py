from __future__ import annotations

import shutil
import warnings

import pytest
import torch

from whispertune.errors import RecipeError
from whispertune.system import precision
from whispertune.system.precision import Precision, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(RecipeError, match="sees no GPU"):
        resolve_device("cuda")
    with pytest.raises(RecipeError, match="sees no GPU"):
        resolve_device("cuda:1")
    with pytest.raises(RecipeError, match="use auto, cpu, cuda, cuda:N or mps"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


def test_devices_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("meta", "xla"):
        with pytest.raises(RecipeError, match="use auto, cpu, cuda, cuda:N or mps"):
            resolve_device(device)
    with pytest.raises(RecipeError, match="2 GPUs"):
        resolve_device("cuda:2")


TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:109.)"
)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_a_gpu_whose_driver_is_too_old_is_not_trained_around(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    def counted() -> bool:
        warnings.warn(TOO_OLD, stacklevel=1)  # as PyTorch does
        return False

    monkeypatch.setattr(torch.cuda, "is_available", counted)
    with pytest.raises(RecipeError, match=r"driver .* too old \(found version 11040\).*--device cpu") as refused:
        resolve_device(device)
    assert "Triggered" not in str(refused.value)
    assert resolve_device("cpu") == CPU


def test_a_torch_for_cpus_says_so_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    for driver, times in ((None, 0), ("/usr/bin/nvidia-smi", 1)):
        precision._report_unused_gpu.cache_clear()
        monkeypatch.setattr(shutil, "which", lambda name, driver=driver: driver)
        assert resolve_device("auto") == resolve_device("auto") == CPU
        assert capsys.readouterr().err.count("uses no GPU") == times


def test_apples_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="sees no Apple GPU"):
        resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps") == torch.device("mps")
    assert resolve_precision("auto", torch.device("mps")).name == "fp32"
    assert precision.exact_dtype(torch.device("mps")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_named_precisions(name: str, dtype: torch.dtype) -> None:
    chosen = resolve_precision(name, CPU)  # type: ignore[arg-type]
    assert (chosen.name, chosen.dtype) == (name, dtype)


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
        chosen = resolve_precision("tf32", gpu)
        assert (chosen.name, chosen.dtype) == ("tf32", torch.float32)
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    else:
        with pytest.raises(RecipeError, match=r"tf32, which needs an NVIDIA GPU"):
            resolve_precision("tf32", gpu)
    assert resolve_precision("fp32", gpu) == Precision("fp32")
    assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")


def test_a_cpu_has_no_tf32() -> None:
    with pytest.raises(RecipeError, match="use fp32 or auto"):
        resolve_precision("tf32", CPU)
