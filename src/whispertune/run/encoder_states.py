"""The encoder states of one run: which are stored, where, and which are computed at each use."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from whispertune.dataset.splits import Split
from whispertune.dataset.windows import augmented_lengths, augmented_num_samples
from whispertune.errors import RecipeError, RunFolderError, StorageError
from whispertune.model.whisper import Encoder
from whispertune.run.session import Session
from whispertune.states.cache import make_room
from whispertune.states.computed import ComputedStates, StateSource, WindowFeatures
from whispertune.states.files import StateFolder
from whispertune.states.key import encoder_digest, store_key
from whispertune.states.placement import FRESH_EPOCHS, Storage, choose_place, stored_views
from whispertune.states.stored import StateLayout, StoredStates
from whispertune.states.views import SideBySide, StoredViews, UpperLayers
from whispertune.system.console import console, progress_bar
from whispertune.system.counts import counted
from whispertune.system.environment import free_memory
from whispertune.system.memory import give_back_freed_memory
from whispertune.system.processes import Pace
from whispertune.text.targets import Target


@dataclass(frozen=True, slots=True)
class RunStates:
    """Decisions made at the start of the run. views: stored augmented views of train, 0 for fresh ones each epoch."""

    session: Session
    place: Storage
    views: int
    train: StateLayout
    valid: StateLayout
    encoder: str

    def training(self) -> StateSource:
        """The states that training reads: all clean copies of a batch, then all augmented ones."""
        session = self.session
        if self.place == "off" or (session.augmenter and not self.views and session.copies == 1):
            return self._computed(session.copies_of)
        device = session.device
        clean = self._completed(StoredViews(1, lambda _: self._stored(session.train, self.train, "train"), device))
        if session.augmenter is None:
            return clean
        augmented = self._completed(StoredViews(self.views, self._stored_view, device))
        if not self.views:
            augmented = self._computed(lambda index, view: [session.augmented_features(index, view)])
        return SideBySide([clean, augmented]) if session.copies == 2 else augmented

    def validation(self) -> StateSource | None:
        """The states of the valid split; None if they are to be computed each time."""
        if self.place == "off":
            return None
        return self._completed(
            StoredViews(1, lambda _: self._stored(self.session.valid, self.valid, "valid"), self.session.device)
        )

    def _completed(self, stored: StateSource) -> StateSource:
        """Stored states as the decoder reads them: through the encoder layers that learn, if any do."""
        session = self.session
        if session.frozen:
            return stored
        assert session.fixed_layers is not None
        return UpperLayers(stored, session.working.model.encoder, session.fixed_layers)

    def targets(self, index: int, epoch: int) -> list[Target]:
        """The targets of a window's copies, in the order of `training`: timestamps follow the augmented speed."""
        session = self.session
        target, window = session.train.targets[index], session.train.windows[index]
        if session.augmenter is None or not window.timestamps:
            return [target] * session.copies
        lengths = augmented_lengths(
            window, window.num_samples, session.augmenter, seed=session.recipe.seed, view=self._view(epoch)
        )
        clean = [target] if session.copies == 2 else []
        return [*clean, session.text.target(window, lengths)]

    def _view(self, epoch: int) -> int:
        """The augmented view of an epoch."""
        return epoch % self.views if self.views else epoch

    def _computed(self, features: Callable[[int, int], Sequence[WindowFeatures]]) -> ComputedStates:
        session = self.session
        return ComputedStates(
            session.working.model.encoder,
            lambda index, epoch: features(index, self._view(epoch)),
            workers=session.recipe.data.workers,
            trained=not session.frozen,
        )

    def _stored(self, split: Split, layout: StateLayout, what: str) -> StoredStates:
        key = self._key(split, layout)
        features = partial(self.session.features, split, frames=self.session.frames)
        return self._filled(layout, key, features, what)

    def _stored_view(self, view: int) -> StoredStates:
        session = self.session
        augmenter, train = session.augmenter, session.train
        assert augmenter is not None
        lengths = {w.utterances[0].id: n for w, n in zip(train.windows, train.num_samples, strict=True) if not w.pauses}
        num_samples = [
            augmented_num_samples(
                window, [lengths[u.id] for u in window.utterances], augmenter, seed=session.recipe.seed, view=view
            )
            for window in train.windows
        ]
        layout = StateLayout(num_samples, session.frames, self.train.d_model, self.train.precision)
        noises = [] if augmenter.noise is None else [path for path, _ in augmenter.noise.recordings]
        key = self._key(train, layout, augment=augmenter.options, noises=noises, seed=session.recipe.seed, view=view)
        name = f"train, view {view + 1}/{self.views}"
        return self._filled(layout, key, lambda index: session.augmented_features(index, view), name)

    def _key(self, split: Split, layout: StateLayout, **augmented: object) -> str:
        """The store's key: the same in all processes, though their copies of the audio may differ in time or path."""
        if self.place == "memory":
            return ""
        session = self.session
        return session.processes.from_main(
            lambda: store_key(
                self.encoder, split.windows, layout, n_mels=session.ready.n_mels, device=session.device,
                content=session.recipe.states.verify, **augmented,  # type: ignore[arg-type]
            )
        )  # fmt: skip

    def _filled(
        self, layout: StateLayout, key: str, features: Callable[[int], WindowFeatures], what: str
    ) -> StoredStates:
        """States of all windows, those that are missing being encoded first; in memory if the disk fails."""
        if self.place == "memory":
            return self._fill(StoredStates(layout), features, what)
        options, processes = self.session.recipe.states, self.session.processes
        try:
            processes.from_main(lambda: self._make_room(layout, key))
            files = StateFolder(options.path / key, key, layout.batch_bytes)
            return self._fill(StoredStates(layout, files), features, what)
        except OSError as error:
            problem = f"{options.path}: the states cannot be kept there ({error.strerror or error})"
            missing = isinstance(error, FileNotFoundError) and not processes.is_main
            failed = StorageError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else RunFolderError
        if missing:
            raise RunFolderError(
                f"{options.path}: files that the main process created there cannot be seen from here; name a "
                "--states.folder that all machines share"
            )
        if processes.world_size > 1:  # the others are filling the files
            raise failed(f"{problem}; free some disk space, name another --states.folder, or take memory")
        if layout.num_bytes > free_memory() // 2:
            raise failed(
                f"{problem}, and {layout.num_bytes / 1e6:.0f} MB do not fit in memory; free some disk space, or name "
                "another --states.folder, and start the run again"
            )
        console.print(f"states    {problem}; in memory instead", style="yellow")
        return self._fill(StoredStates(layout), features, what)

    def _make_room(self, layout: StateLayout, key: str) -> None:
        options = self.session.recipe.states
        evicted = make_room(options.path, key, layout.num_bytes, options.max_bytes)
        if evicted:
            console.print(f"states    {counted(evicted, 'unused store')} evicted, to stay below {options.max_gb:g} GB")

    def _fill(self, store: StoredStates, features: Callable[[int], WindowFeatures], what: str) -> StoredStates:
        session, processes, layout = self.session, self.session.processes, store.layout
        together = self.place == "disk" and processes.world_size > 1
        batches = store.missing(processes.rank, processes.world_size) if together else store.missing()
        mine = sum(len(layout.batches[number]) for number in batches)
        every, damaged = map(int, processes.sum([mine, store.damaged])) if together else (mine, store.damaged)
        if damaged:
            console.print(f"encoding {what}: {counted(damaged, 'damaged part')} of the store made anew", style="yellow")
        if every < len(layout.num_samples):
            console.print(f"encoding {what}: {counted(len(layout.num_samples) - every, 'window')} read from the store")

        def encode() -> None:
            move_encoder(session, session.device)
            with progress_bar(f"encoding {what}", every) as advance:
                encoder, workers = fixed_encoder(session), session.recipe.data.workers
                pace = Pace(advance, mine, every)
                for count in store.fill(batches, encoder, features, workers=workers):
                    pace(count)
                    session.stop.check()

        if every:
            processes.share(encode)
            if together:
                store.require_others(processes.all_gather)
        session.note_unreadable()
        if session.frozen and (session.augmenter is None or self.views):  # until a view has to be encoded, or the test
            move_encoder(session, torch.device("cpu"))
        give_back_freed_memory()
        if store.moved is not None:
            console.print(f"states    {what}: the disk failed ({store.moved}); kept in memory instead", style="yellow")
        return store


def plan_states(session: Session) -> RunStates:
    """Decide what is stored and where, show it to the user, and note it for a resume.

    Raises:
        RecipeError: if states are asked to be stored that change.
    """
    recipe, progress, config = session.recipe, session.progress, session.ready.checkpoint.config
    if recipe.states.store in ("memory", "disk") and session.fixed_layers is None:
        raise RecipeError(
            f"is {recipe.states.store}, but the encoder learns from its first layer on: states change; take auto or "
            "off, or freeze lower layers (freeze encoder:N)",
            field="states.store",
        )
    train = StateLayout(session.train.num_samples, session.frames, config.d_model, session.precision)
    valid = StateLayout(session.valid.num_samples, session.frames, config.d_model, session.precision)
    views = _num_views(session, train, recipe.epochs) if progress.views is None else progress.views

    def place_for(views: int) -> tuple[Storage, str]:
        clean = session.augmenter is None or session.copies == 2
        return choose_place(
            recipe.states, (clean + views) * train.num_bytes + valid.num_bytes, session.processes.world_size
        )

    def decide() -> tuple[int, Storage, str]:
        if session.fixed_layers is None:
            return views, "off", "the encoder learns"
        place, reason = place_for(views)
        if place == "off" and views and recipe.augment.views == "auto" and progress.views is None:
            return 0, *place_for(0)
        return views, place, reason

    views, place, reason = session.processes.from_main(decide)
    if recipe.states.store == "auto" and progress.stored is False and place != "off":
        place, reason = "off", "as at the start of this run"  # stored, they would differ in their last bits
    below = "" if session.frozen or place == "off" else f", below the encoder's layer {session.fixed_layers}"
    console.print(f"states    {'computed at each use' if place == 'off' else place}{below}: {reason}")
    if progress.stored and place == "off":
        console.print(
            "states    they were stored at the start of this run: the rest of it may differ in the last bits",
            style="yellow",
        )
    if session.augmenter is not None:
        fresh = "fresh augmented copies in every epoch"
        console.print(f"augment   {f'{views} views, epoch e takes e modulo {views}' if views else fresh}")
    progress.views, progress.stored = views, place != "off"
    digest = encoder_digest(fixed_encoder(session)) if place == "disk" else ""
    return RunStates(session, place, views, train, valid, digest)


def move_encoder(session: Session, device: torch.device) -> None:
    """Move the encoder, which nothing needs while all states are stored, off a GPU, or back to it."""
    if session.device.type != "cpu":
        session.working.model.encoder.to(device)


def fixed_encoder(session: Session) -> Encoder:
    """The part of the encoder whose output stays the same: all of it, or its lower layers."""
    encoder = session.working.model.encoder
    if session.frozen:
        return encoder
    assert session.fixed_layers is not None
    return encoder.lower(session.fixed_layers)


def auto_views(session: Session, epochs: int) -> int:
    """How many augmented views a run of so many epochs would store."""
    width = session.ready.checkpoint.config.d_model
    return _num_views(session, StateLayout(session.train.num_samples, session.frames, width, session.precision), epochs)


def _num_views(session: Session, layout: StateLayout, epochs: int) -> int:
    """0 for fresh ones."""
    recipe, wanted = session.recipe, session.recipe.augment.views
    if session.augmenter is None or wanted == "fresh":
        return 0
    if isinstance(wanted, int):
        return wanted
    if session.fixed_layers is None or (epochs <= FRESH_EPOCHS and recipe.states.store in ("auto", "off")):
        return 0
    targets = session.train.targets
    return stored_views(
        session.ready.checkpoint.config,
        layout.num_rows / len(layout.num_samples),
        sum(len(target.input_ids) for target in targets) / len(targets),
        epochs,
    )
