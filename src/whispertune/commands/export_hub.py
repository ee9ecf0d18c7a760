"""whispertune export --to hub:USER/NAME: write a model folder with its card, show it, upload it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from whispertune import __version__
from whispertune.checkpoints.checkpoint import Checkpoint
from whispertune.checkpoints.export_mark import MARK, write_mark
from whispertune.checkpoints.generation import own_language
from whispertune.checkpoints.hub_upload import check_repository, upload
from whispertune.commands.export_options import ExportOptions
from whispertune.run.model_card import card_for_hub, license_of
from whispertune.system.console import console, results

CARD = "README.md"
Fill = Callable[[Path], None]


def share(options: ExportOptions, prepare: Callable[[], tuple[Checkpoint, Fill]], card: bytes | None) -> str:
    """Upload the model that `prepare` reads, with its card, or a new card if it has none; returns its address.

    With --dry_run it only says what would be uploaded.

    Raises:
        RecipeError, ExportError: as `check_repository` and `upload`.
    """
    repository = options.repository or ""
    before = None if options.dry_run else check_repository(repository, options.public, MARK)
    checkpoint, fill = prepare()
    text = card_for_hub(
        None if card is None else card.decode(errors="replace"),
        repository,
        model=options.model,
        language=own_language(checkpoint.generation),
        task=checkpoint.generation.get("task") or "transcribe",
        license_=options.license,
    )
    with TemporaryDirectory(prefix="whispertune-") as name:
        folder = Path(name) / "model"
        folder.mkdir()
        fill(folder)
        (folder / CARD).write_text(text, encoding="utf-8")
        write_mark(folder, to="hub")  # without the model's path, which is nobody else's business
        files = sorted(folder.iterdir())
        for file in files:
            results.print(f"{_size(file.stat().st_size):>9}  {file.name}")
        who = "public: everyone may read it" if options.public else "private: only you or your organisation may read it"
        results.print(f"{_size(sum(file.stat().st_size for file in files)):>9}  in all, to {repository}, {who}")
        if license_of(text) is None:
            console.print("note      without a licence nobody else may use the model: add --license", style="yellow")
        if options.dry_run:
            results.print(f"\n{CARD}:\n\n{text}")
            results.print("This was a dry run: nothing was uploaded.")
            return ""
        address = upload(folder, repository, options.public, before, f"Upload a model with whispertune {__version__}")
    results.print(address)
    results.print(f"transformers: pipeline('automatic-speech-recognition', model='{repository}')")
    return address


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
