"""whispertune align: a plain text and the recordings of it -> pieces with times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whispertune.align.pauses import Pauses, find_pauses, frame_levels
from whispertune.align.pieces import Piece, confidences, cut_pieces, too_long
from whispertune.align.sentences import Sentence, find_sentences, split_sentences
from whispertune.checkpoints.generation import own_language
from whispertune.commands.align_options import AlignOptions
from whispertune.data.audio.waveforms import probe_audio, stream_waveform
from whispertune.data.audio_files import find_audio
from whispertune.data.text_files import read_text
from whispertune.decoding.loading import ReadyModel, load_to_decode
from whispertune.decoding.long_form import LongForm
from whispertune.decoding.options import GREEDY, LongFormOptions
from whispertune.decoding.transcriber import Transcriber
from whispertune.decoding.words import Word
from whispertune.errors import AudioError, RecipeError
from whispertune.features.options import FrameOptions
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.system.console import console, progress_bar, results
from whispertune.system.counts import counted
from whispertune.system.files import make_writable, no_empty_folders, write_jsonl
from whispertune.system.memory import keep_freed_memory
from whispertune.system.precision import resolve_device
from whispertune.system.processes import were_launched
from whispertune.text.normalizer import leads_with_cer, normalizer_for

NOT_HEARD = "not heard in the recordings"
PAST_WINDOW = "lasts more than 30 s: break its line"


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune align ARGUMENTS`."""
    given, flags = split_arguments(arguments)
    options = parse_fields(AlignOptions, {}, flags, command="align")
    if were_launched():
        raise RecipeError("align runs in one process; start it without torchrun or accelerate launch")
    audios = find_audio(given)
    sentences = split_sentences(read_text(Path(options.text), empty="write what is said, a sentence per line"))
    output = Path(options.output)
    with no_empty_folders(output):
        make_writable(output)
        keep_freed_memory()
        kept, excluded = align(audios, sentences, options)
    write_jsonl(output / "manifest.jsonl", kept)
    write_jsonl(output / "excluded.jsonl", excluded)
    hours = sum(row["duration"] for row in kept) / 3600
    results.print(
        f"{len(kept):,} of {counted(len(sentences), 'sentence')}, {hours:.2f} hours: {output / 'manifest.jsonl'}"
    )
    if excluded:
        results.print(f"left out, with reasons: {output / 'excluded.jsonl'}")
    return 0


def align(
    audios: Sequence[Path], sentences: Sequence[Sentence], options: AlignOptions
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the manifest, and those of the sentences that are left out.

    Raises:
        UserError: whatever is wrong with options, model or recordings.
    """
    device = resolve_device(options.device)
    ready = load_to_decode(options.model, device, options.precision, base=options.base)
    ready.tokenizer.require_timestamps()
    language = _language(ready, options)
    prompt = ready.tokenizer.prompt_tokens(options.language_token or language, options.task)
    words, recordings, pauses = _heard(audios, ready, language, options)
    normalize = normalizer_for(language)
    found = find_sentences(
        [sentence.text for sentence in sentences], [word.text for word in words], normalize,
        spaces=not leads_with_cer(language),
    )  # fmt: skip
    cut = cut_pieces(found, words, recordings, pauses)
    pieces = [piece for piece in cut if piece.share >= options.confidence.min_share and not too_long(piece)]
    transcriber = Transcriber(ready, GREEDY, FrameOptions())
    with progress_bar("aligning, pieces", len(pieces)) as advance:
        texts = [sentences[piece.sentence].text for piece in pieces]
        scores = confidences(transcriber, pieces, texts, language, prompt, normalize, advance)
    kept = [
        _row(piece, sentences[piece.sentence], score)
        for piece, score in zip(pieces, scores, strict=True)
        if score >= options.confidence.min_confidence
    ]
    reasons = dict.fromkeys(range(len(sentences)), NOT_HEARD)
    reasons |= {piece.sentence: PAST_WINDOW for piece in cut if too_long(piece)}
    reasons |= {piece.sentence: f"confidence {score:.2f}" for piece, score in zip(pieces, scores, strict=True)}
    for row in kept:
        del reasons[row.pop("sentence")]
    return kept, [
        {"line": sentences[place].line, "text": sentences[place].text, "reason": reason}
        for place, reason in reasons.items()
    ]


def _language(ready: ReadyModel, options: AlignOptions) -> str:
    """The language asked for, or the model's own. Raises RecipeError if there is none."""
    if options.language is not None:
        return ready.tokenizer.spoken_language(options.language, options.language_token)
    own = own_language(ready.checkpoint.generation) if ready.tokenizer.multilingual else "en"
    if own is None:
        raise RecipeError("say which language is spoken: --language L", field="language")
    return own


def _heard(
    audios: Sequence[Path], ready: ReadyModel, language: str, options: AlignOptions
) -> tuple[list[Word], list[Path], dict[Path, Pauses]]:
    """The words that the model hears, the recording of each, and the pauses of all recordings."""
    long_form = LongForm(
        ready, search=options.search, options=LongFormOptions(word_timestamps=True, condition_on_previous_text=False),
        language=language, token=options.language_token, task=options.task,
    )  # fmt: skip
    heard: dict[int, list[Word]] = {}
    pauses: dict[Path, Pauses] = {}
    lengths = [probe_audio(audio) for audio in audios]
    with progress_bar("transcribing, seconds", sum(frames // rate for frames, rate in lengths)) as advance:
        for place, transcript in long_form.transcribe(audios, advance):
            if isinstance(transcript, AudioError):
                raise transcript
            heard[place] = [word for segment in transcript.segments for word in segment.words]
            pauses[audios[place]] = find_pauses(frame_levels(stream_waveform(audios[place])))
    words = [word for place in range(len(audios)) for word in heard[place]]
    if not words:
        console.print("the model heard no words in these recordings", style="yellow")
    return words, [audio for place, audio in enumerate(audios) for _ in heard[place]], pauses


def _row(piece: Piece, sentence: Sentence, confidence: float) -> dict[str, Any]:
    start, end = round(piece.start, 2), round(piece.end, 2)
    return {
        "sentence": piece.sentence,
        "audio": str(piece.audio.absolute()),
        "start": start,
        "end": end,
        "duration": round(end - start, 2),
        "text": sentence.text,
        "confidence": round(confidence, 4),
        "line": sentence.line,
    }
