"""Whole runs on data in a bucket: as from the disk, whatever happens to the connection."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import bucket
import pytest
from training_samples import TRAIN_IDS, VALID_IDS, Samples, metrics, outcome

from whispertune import cli
from whispertune.data import remote


@pytest.fixture(scope="module")
def proxy(samples: Samples) -> Iterator[bucket.Proxy]:
    """Manifests with relative paths beside audio/, one with URLs, and a tar of the training clips."""
    with bucket.serving() as proxy:
        files: dict[str, Path | bytes] = {}
        packed = io.BytesIO()
        for name, manifest in (("train", samples.train), ("valid", samples.valid)):
            rows = list(csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()))
            files |= {f"data/audio/{row['id']}.wav": Path(row["audio"]) for row in rows}
            for kind, folder in (("", "audio"), ("-urls", "s3://speech/data/audio")):
                lines = [f"{row['id']}\t{folder}/{row['id']}.wav\t{row['text']}\n" for row in rows]
                files[f"data/{name}{kind}.tsv"] = "".join(["id\taudio\ttext\n", *lines]).encode()
            with tarfile.open(fileobj=packed if name == "train" else io.BytesIO(), mode="w") as tar:
                for row in rows:
                    for member, content in (
                        (f"{row['id']}.wav", Path(row["audio"]).read_bytes()),
                        (f"{row['id']}.txt", row["text"].encode()),
                    ):
                        about = tarfile.TarInfo(member)
                        about.size = len(content)
                        tar.addfile(about, io.BytesIO(content))
        bucket.upload("speech", {**files, "shards/train-000.tar": packed.getvalue()})
        yield proxy


@pytest.fixture(autouse=True)
def _nothing_kept(proxy: bucket.Proxy) -> Iterator[None]:
    """Each run asks the server anew."""
    proxy.cut_every = proxy.cuts = 0
    yield
    remote._block.cache_clear()
    remote._sha256.cache_clear()


@pytest.fixture(scope="module")
def from_disk(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("disk") / "run"
    assert samples.train_run(run) == 0
    return run


def differences(run: Path, other: Path) -> list[str]:
    """What two runs' outcomes differ in, beside the sha256 of their manifests."""
    found, theirs = outcome(run), outcome(other)
    for each in (found, theirs):
        each["progress"]["began"].pop("sha256")
    return [name for name in found if found[name] != theirs[name]]


@pytest.mark.parametrize("cut_every", [0, 3])
def test_a_run_from_a_bucket_is_the_one_from_disk(
    cut_every: int, proxy: bucket.Proxy, samples: Samples, from_disk: Path, tmp_path: Path
) -> None:
    proxy.cut_every = cut_every
    train, valid = "s3://speech/data/train.tsv", "s3://speech/data/valid-urls.tsv"
    assert samples.train_run(tmp_path / "run", train=train, valid=valid) == 0
    assert differences(tmp_path / "run", from_disk) == []
    assert bool(proxy.cuts) == bool(cut_every)


def test_a_run_from_shards_reads_their_members_once(
    proxy: bucket.Proxy, samples: Samples, from_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"train": "s3://speech/shards/train-{000..000}.tar", "valid": "s3://speech/data/valid.tsv"}
    assert samples.train_run(tmp_path / "run", **given) == 0
    weights = [row["loss"] for row in metrics(tmp_path / "run") if "lr" in row]
    assert weights == [row["loss"] for row in metrics(from_disk) if "lr" in row]
    monkeypatch.setattr("whispertune.data.sources.add_shard", None)  # the index has its rows
    assert samples.train_run(tmp_path / "again", **given) == 0
    assert outcome(tmp_path / "again")["state"] == outcome(tmp_path / "run")["state"]


def test_check_evaluate_and_transcribe_read_a_bucket(
    proxy: bucket.Proxy, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "s3://speech/data/train.tsv", "--language", "en", "--output", str(tmp_path / "c")]) == 0
    written = {}
    for name, data in (("disk", samples.valid), ("bucket", "s3://speech/data/valid.tsv")):
        written[name] = tmp_path / name
        model = ["--model", str(samples.model), "--language", "en", "--precision", "fp32"]
        assert cli.main(["evaluate", *model, "--data", str(data), "--output", str(written[name])]) == 0
    scored = [(folder / "hypotheses.jsonl").read_text() for folder in written.values()]
    assert scored[0] == scored[1]
    clips = [f"s3://speech/data/audio/{name}.wav" for name in VALID_IDS[:2]]
    output = tmp_path / "texts"
    assert cli.main(["transcribe", *model, *clips, "--format", "json", "--output", str(output)]) == 0
    assert {path.stem for path in output.glob("*.json")} == set(VALID_IDS[:2])
    assert capsys.readouterr().err.count("error") == 0


def test_storage_that_stays_away_ends_a_run_in_one_line(
    proxy: bucket.Proxy, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.cut_every = 1
    given = {"train": "s3://speech/data/train.tsv", "valid": "s3://speech/data/valid.tsv"}
    assert samples.train_run(tmp_path / "run", **given) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "s3://speech/data/train.tsv: cannot be read" in line
    assert "tried 5 times" in line


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("s3://speech/data/no.tsv", "s3://speech/data/no.tsv: no such file"),
        ("s3://nobody/train.tsv", "s3://nobody/train.tsv: no such file"),
        ("s3://speech/data", "s3://speech/data: is a remote folder"),
    ],
)
def test_what_is_missing_is_named(
    train: str, expected: str, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samples.train_run(tmp_path / "run", train=train) == 2
    assert expected in capsys.readouterr().err


def test_missing_credentials_are_named(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket.s3fs.S3FileSystem.clear_instance_cache()
    remote._file_system.cache_clear()
    try:
        assert samples.train_run(tmp_path / "run", train="s3://speech/data/train.tsv") == 2
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in capsys.readouterr().err
    finally:
        bucket.s3fs.S3FileSystem.clear_instance_cache()
        remote._file_system.cache_clear()


def test_a_missing_clip_is_excluded_and_named(proxy: bucket.Proxy, samples: Samples, tmp_path: Path) -> None:
    rows = "".join(f"{name}\ts3://speech/data/audio/{name}.wav\tx\n" for name in (*TRAIN_IDS, "gone"))
    (tmp_path / "train.tsv").write_text("id\taudio\ttext\n" + rows)
    fields = {"train": tmp_path / "train.tsv", "data__max_excluded": 0.2, "epochs": 1}
    assert samples.train_run(tmp_path / "run", **fields) == 0
    (excluded,) = map(json.loads, (tmp_path / "run" / "excluded.jsonl").read_text().splitlines())
    assert excluded["id"] == "gone"
    assert excluded["reason"] == "s3://speech/data/audio/gone.wav: no such file; correct the path"
