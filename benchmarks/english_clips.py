"""Real English speech for the benchmarks, fetched once from Debian, with its transcripts.

    python benchmarks/english_clips.py          # prints the manifest's path

The Asterisk prompts in US English (Allison Smith, CC BY-SA 3.0; 8 kHz; the same genre as the Italian ones in
examples/) and five sentences of a LibriVox reading (public domain, 16 kHz) from pocketsphinx's test data. Needs
`apt-get` and `dpkg-deb`; packages are checked by sha256 and unpacked, not installed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import soundfile

PACKAGES = {
    "asterisk-core-sounds-en-wav=1.6.1-1": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "asterisk-core-sounds-en=1.6.1-1": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "pocketsphinx-testdata=0.8+5prealpha+1-15": "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
}
SHORTEST, LONGEST, NUM_PROMPTS = 1.2, 20.0, 210  # seconds; digits and letters alone are left out


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whispertune-benchmarks" / "english"


def fetch(folder: Path) -> None:
    """Download and unpack what is missing.

    Raises:
        SystemExit: without apt, or if a package is not the one that is expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package, digest in PACKAGES.items():
        name, _, version = package.partition("=")
        files = list(folder.glob(f"{name}_*.deb"))
        if not files:
            try:
                subprocess.run(["apt-get", "-q", "download", package], cwd=folder, check=True, stdout=sys.stderr)
            except (OSError, subprocess.CalledProcessError) as error:
                sys.exit(f"english_clips.py: cannot download {package} ({error}); run `apt-get update` on Debian 12")
            files = list(folder.glob(f"{name}_*.deb"))
        if hashlib.sha256(files[0].read_bytes()).hexdigest() != digest:
            sys.exit(f"english_clips.py: {files[0]} is not {name} {version}; remove it and try again")
        subprocess.run(["dpkg-deb", "-x", str(files[0]), str(folder / "files")], check=True)


def prompts(folder: Path) -> list[tuple[Path, str]]:
    """Asterisk's prompts with their texts, spread over the list."""
    text = gzip.decompress((folder / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").read_bytes())
    found = []
    for line in text.decode("utf-8", errors="replace").splitlines():
        name, colon, words = line.partition(":")
        audio = folder / "usr/share/asterisk/sounds/en_US_f_Allison" / f"{name.strip()}.wav"
        words = " ".join(re.sub(r"[\[(].*?[\])]|\.\.\.", " ", words).split())
        if not colon or not re.search(r"[A-Za-z]{2}", words) or not audio.is_file():
            continue
        if re.match(r"(digits|letters|phonetic|silence)/", name):
            continue
        if not SHORTEST <= soundfile.info(audio).duration <= LONGEST:
            continue
        found.append((audio, words))
    return [found[i * len(found) // NUM_PROMPTS] for i in range(min(NUM_PROMPTS, len(found)))]


def sentences(folder: Path) -> list[tuple[Path, str]]:
    """LibriVox's."""
    data = folder / "usr/share/pocketsphinx/test/data/librivox"
    found = []
    for line in (data / "transcription").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()):
            found.append((data / f"{match[2]}.wav", match[1]))
    return found


def english_manifest() -> Path:
    """The manifest of the English clips (`id`, `audio`, `text`), fetched if it is not there yet."""
    folder = cache_folder()
    manifest = folder / "english.csv"
    if not manifest.is_file():
        fetch(folder)
        clips = prompts(folder / "files") + sentences(folder / "files")
        with manifest.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "audio", "text"))
            writer.writerows((f"{i:03}-{audio.stem}", audio, text) for i, (audio, text) in enumerate(clips))
    return manifest


if __name__ == "__main__":
    if sys.argv[1:]:
        print(__doc__)
    else:
        print(english_manifest())
