"""Detect truncated audio files from their containers.

libsndfile reads a truncated file (a broken download, a full disk) up to its end without any error. Training on it
would pair half the speech with the whole text.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from typing import BinaryIO, cast

# A program that writes to a pipe cannot know the size: ffmpeg writes 0xFFFFFFFF, sox 0x7ffff…, others 0.
STREAMED_SIZE = 0x7FFFF000
OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the largest possible page
MP3_KBPS = {  # by MPEG version (1, 2 or 2.5), layer III
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_PAIR_BYTES = 4096  # the longest frame has 2,881 bytes, and the next one's header 4
MP3_BLOCK_BYTES = 1 << 20
MP4_COUNTS = (b"stsz", b"trun", b"cmov")
MP4_NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"udta", b"wave")
MP4_DEPTH = 10
MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def missing_share(file: BinaryIO) -> float:
    """Audio bytes missing at the end, as a share of those present; 0.0 if none are missing or the format is not known.

    Supports WAV, RF64, AIFF, AU, NIST Sphere, and MP3 with a Xing header.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(1024)
    audio: tuple[int, int] | None = None  # offset and declared number of bytes
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        audio = _chunked_audio(file, size, head)
    elif head[:4] == b".snd" and len(head) >= 12:
        audio = struct.unpack(">II", head[4:12])
    elif head.startswith(b"NIST_1A"):
        audio = _sphere_audio(head)
    elif head.startswith((b"ID3", b"\xff")):
        audio = _xing_audio(file)
        if audio is not None and audio[1] <= size:
            return 0.0  # some encoders include their tags
    if audio is None or audio[1] == 0 or audio[0] >= size or STREAMED_SIZE <= audio[1] <= 0xFFFFFFFF:
        return 0.0
    there = size - audio[0]
    return max(0, audio[1] - there) / there


def with_true_size(file: BinaryIO) -> BinaryIO | None:
    """The content of a WAV whose header declares no samples (it was written to a pipe), with the size corrected.

    None for other formats, and for a WAV that is really empty.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    audio = _chunked_audio(file, size, head)
    if audio is None or audio[1] or audio[0] >= size or _chunks_to_the_end(file, audio[0], size):
        return None
    # Copy on write: the file stays as it is, and only the changed page takes memory.
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if _is_real(file) else None
    buffer = bytearray(file.seek(0) or file.read()) if view is None else view
    struct.pack_into("<I", buffer, 4, min(size - 8, 0xFFFFFFFF))
    struct.pack_into("<I", buffer, audio[0] - 4, min(size - audio[0], 0xFFFFFFFF))
    return cast(BinaryIO, view) if view is not None else io.BytesIO(buffer)


def _is_real(file: BinaryIO) -> bool:
    try:
        return file.fileno() >= 0
    except OSError:  # io.UnsupportedOperation: bytes in memory
        return False


def _chunks_to_the_end(file: BinaryIO, position: int, size: int) -> bool:
    """Whether well-formed chunks follow up to the file's end, so that there are really no samples."""
    while position + 8 <= size:
        file.seek(position)
        name, chunk_bytes = struct.unpack("<4sI", file.read(8))
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        position += 8 + chunk_bytes + chunk_bytes % 2
    return position in (size, size + 1)


def ogg_ends(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file (Vorbis, Opus, FLAC) is complete and marked as the last."""
    size = file.seek(0, 2)
    file.seek(max(0, size - OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if not page.startswith(b"OggS") or len(page) < 27:
        return False
    lacing = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lacing) and bool(page[5] & 4)


def mp3_samples_without_header(file: BinaryIO) -> tuple[int, bool] | None:
    """Samples per channel of an MP3 without a Xing header, counted by frames, and whether the last frame is complete.

    For such a file libsndfile estimates the length from its size and first bit rate, and reads no further than
    that. None if it has a Xing header (whose count is exact), or is not MPEG layer III.
    """
    begin = _mp3_begin(file)
    file.seek(begin)
    if _xing_offset(file.read(256)) is not None:
        return None
    file.seek(begin)
    data, is_all = file.read(MP3_BLOCK_BYTES), False
    position = num_samples = 0
    is_lost = False
    while True:
        if not is_all and len(data) - position < MP3_PAIR_BYTES:
            more = file.read(MP3_BLOCK_BYTES)
            data, position, is_all = data[position:] + more, 0, not more
            continue
        if position >= len(data):
            break
        frame = _mp3_frame(data, position)
        if frame is None or (is_lost and not _mp3_pair(data, position)):
            is_lost = True  # padding or a tag: a frame is what another one follows
            position = data.find(b"\xff", position + 1)
            position = len(data) if position < 0 else position
            continue
        is_lost = False
        if position + frame[0] > len(data):
            return num_samples, False
        position += frame[0]
        num_samples += frame[1]
    return (num_samples, True) if num_samples else None


def mp4_fault(file: BinaryIO) -> str | None:
    """Why the index of an MP4 or QuickTime file would fill the memory; None if it would not, and for other formats.

    FFmpeg allocates an entry of 36 bytes for each sample that the headers promise. A sample (a codec's frame) has at
    least one byte, except for QuickTime's IMA 4:1, with nearly two samples per byte.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat"):
        return None
    promised = 0
    for name, position in _mp4_boxes(file, 0, size, depth=0):
        if name == b"cmov":
            return "its index is compressed, so its size is unknown"
        file.seek(position + (8 if name == b"stsz" else 4))
        promised += int.from_bytes(file.read(4), "big")
    return None if promised <= 2 * size else f"its headers promise {promised:,} samples in {size:,} bytes"


def _mp4_boxes(file: BinaryIO, position: int, end: int, depth: int) -> Iterator[tuple[bytes, int]]:
    """(name, offset of the content) of the boxes with the number of samples."""
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        box_bytes, name, begin = int.from_bytes(header[:4], "big"), header[4:8], position + 8
        if box_bytes == 1:
            box_bytes, begin = int.from_bytes(header[8:], "big"), position + 16
        if box_bytes == 0:  # up to the end
            box_bytes = end - position
        if box_bytes < begin - position:
            return
        if name in MP4_COUNTS:
            yield name, begin
        elif name in MP4_NESTED and depth < MP4_DEPTH:
            yield from _mp4_boxes(file, begin, min(end, position + box_bytes), depth + 1)
        position += box_bytes


def _chunked_audio(file: BinaryIO, size: int, head: bytes) -> tuple[int, int] | None:
    """Offset and size of the audio in RIFF (WAV) and IFF (AIFF): chunks, each with a four-letter name and a size."""
    order = "<" if head[:4] in (b"RIFF", b"RF64") else ">"
    long_size = 0
    position = 12
    for _ in range(1000):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return None
        chunk_bytes: int = struct.unpack(order + "I", header[4:])[0]
        if header[:4] in (b"data", b"SSND"):
            return position + 8, long_size if long_size and chunk_bytes == 0xFFFFFFFF else chunk_bytes
        if header[:4] == b"ds64":  # RF64: sizes over 4 GiB
            long_size = int.from_bytes(file.read(16)[8:], "little")
        position += 8 + chunk_bytes + chunk_bytes % 2
        if position >= size:
            return None
    return None


def _sphere_audio(head: bytes) -> tuple[int, int] | None:
    """The same for NIST Sphere (LDC corpora), whose header is text lines such as `sample_count -i 64000`."""
    lines = [line.split() for line in head.decode("latin-1").split("\n")]
    fields = {words[0]: words[2] for words in lines if len(words) == 3 and words[1] == "-i"}
    try:
        counts = [int(fields[name]) for name in ("sample_count", "channel_count", "sample_n_bytes")]
        return int(lines[1][0]), counts[0] * counts[1] * counts[2]
    except (KeyError, ValueError, IndexError):
        return None


def _mp3_begin(file: BinaryIO) -> int:
    """Offset of the first frame, after the ID3v2 tag, whose size is written in 7-bit bytes."""
    file.seek(0)
    tag = file.read(10)
    if not tag.startswith(b"ID3") or len(tag) < 10:
        return 0
    tag_bytes = 0
    for byte in tag[6:]:
        tag_bytes = tag_bytes << 7 | byte & 0x7F
    return 10 + tag_bytes + (10 if tag[5] & 0x10 else 0)


def _mp3_pair(data: bytes, position: int) -> bool:
    frame = _mp3_frame(data, position)
    return frame is not None and _mp3_frame(data, position + frame[0]) is not None


def _mp3_frame(data: bytes, position: int) -> tuple[int, int] | None:
    """Bytes and samples per channel of the layer III frame at `position`; None if there is none."""
    header = data[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or header[1] & 0x06 != 0x02:
        return None
    version = header[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    bit_rate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or rate == 3 or bit_rate in (0, 15):
        return None
    num_samples = 1152 if version == 3 else 576
    bits = MP3_KBPS[version == 3][bit_rate] * 1000
    return num_samples // 8 * bits // MP3_RATES[version][rate] + padding, num_samples


def _xing_offset(frame: bytes) -> int | None:
    """Offset of the Xing header in the first frame, after side information of varying size."""
    for name in (b"Xing", b"Info"):
        offset = frame.find(name, 4, 48)
        if offset > 0:
            return offset
    return None


def _xing_audio(file: BinaryIO) -> tuple[int, int] | None:
    begin = _mp3_begin(file)
    file.seek(begin)
    frame = file.read(256)
    offset = _xing_offset(frame)
    if _mp3_frame(frame, 0) is None or offset is None or len(frame) < offset + 16:
        return None
    flags = struct.unpack(">I", frame[offset + 4 : offset + 8])[0]
    if not flags & 2:  # no byte count
        return None
    at = offset + (12 if flags & 1 else 8)
    return begin, struct.unpack(">I", frame[at : at + 4])[0]
