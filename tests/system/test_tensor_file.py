"""The writer against the safetensors library's reader, and its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from whispertune.system.tensor_file import DTYPES, replace_metadata, save_file

shapes = st.lists(st.integers(0, 5), max_size=3)
names = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable())
described = st.dictionaries(names, st.tuples(shapes, st.sampled_from(sorted(DTYPES, key=str))), max_size=6)
every_time = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def tensors_of(description: dict[str, tuple[list[int], torch.dtype]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype) for name, (shape, dtype) in description.items()
    }


@given(described)
@every_time
def test_the_library_reads_what_was_written(
    tmp_path: Path, description: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    ours, path = tensors_of(description), tmp_path / "t.safetensors"
    save_file(ours, path, {"progress": '{"ü": 1}'})
    theirs = load_file(path)
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        assert theirs[name].dtype == tensor.dtype
        assert torch.equal(theirs[name], tensor)
    replace_metadata(path, tmp_path / "u.safetensors", {"progress": "other" * 50})
    with safe_open(tmp_path / "u.safetensors", "pt") as file:
        assert file.metadata() == {"progress": "other" * 50}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in ours.items())


def test_a_file_is_saved_over_itself(tmp_path: Path) -> None:
    """What was read is mapped from the file: cutting it short first would end the process."""
    path = tmp_path / "t.safetensors"
    save_file({"t": torch.arange(100_000)}, path)
    save_file(load_file(path), path)
    assert torch.equal(load_file(path)["t"], torch.arange(100_000))


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    save_file({"t": whole.T, "part": whole[1:, ::2]}, tmp_path / "t.safetensors")
    theirs = load_file(tmp_path / "t.safetensors")
    assert torch.equal(theirs["t"], whole.T)
    assert torch.equal(theirs["part"], whole[1:, ::2])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB on Linux")
def test_no_copy_of_everything_is_made(tmp_path: Path) -> None:
    """200 MB in four tensors: the peak must not rise by as much."""
    code = (
        "import resource, sys, torch; from pathlib import Path; from whispertune.system.tensor_file import save_file\n"
        "tensors = {str(n): torch.ones(12_500_000) for n in range(4)}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "save_file(tensors, Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.safetensors")]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 60_000
