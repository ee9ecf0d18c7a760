"""Upload a model folder to the Hugging Face Hub, in one commit, with huggingface_hub's own client and token."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from whispertune.checkpoints.hub import SAFETENSORS
from whispertune.errors import ExportError, RecipeError, WhispertuneError

_HARMLESS = (".gitattributes", "README.md")
"""Files that a repository may hold before its first model: the Hub writes them when it creates one."""


@dataclass(frozen=True, slots=True)
class Existing:
    """A repository as it was found. files: their names; sha: of its last commit."""

    files: frozenset[str]
    sha: str | None


def check_repository(repository: str, public: bool, mark: str) -> Existing | None:
    """What the repository holds, None if there is no such repository yet.

    mark: the file that every export holds.

    Raises:
        RecipeError: if there is no valid token, if it may not write, or if an existing repository is public though
            public is False (or the other way round), or holds something other than an export.
        ExportError: if the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if get_token() is None:
        raise _refused(
            repository,
            "there is no token; create one that may write at https://huggingface.co/settings/tokens, then run "
            "`hf auth login`, or set HF_TOKEN",
        )
    api = HfApi()
    with _one_line_errors(repository):
        token = api.whoami().get("auth", {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise _refused(repository, "the token may only read; create one that may write")
        try:
            found = api.model_info(repository)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None
    if not found.private and not public:
        raise _refused(repository, "exists and is public; add --public to upload there, or choose another name")
    if found.private and public:
        raise _refused(repository, "exists and is private; leave out --public, or make it public in its settings there")
    files = frozenset(file.rfilename for file in found.siblings or [])
    strange = sorted(files.difference(_HARMLESS))
    if strange and mark not in files:
        raise _refused(repository, f"holds something other than an export ({strange[0]}); choose another name")
    return Existing(files, found.sha)


def upload(folder: Path, repository: str, public: bool, before: Existing | None, message: str) -> str:
    """Upload all files of a folder in one commit; the address of the repository, which is created if it is new.

    What arrived before an interruption is not sent again: the client asks for its checksums first. Weight files of an
    earlier export that are not in the folder are deleted in the same commit.

    before: as `check_repository` returned it; a commit that somebody else has made since is not overwritten.

    Raises:
        RecipeError, ExportError: as there; also if the Hub does not accept the card.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    names = {path.name: path for path in sorted(folder.iterdir())}
    known = () if before is None else before.files
    stale = [name for name in known if name not in names and any(fnmatch(name, part) for part in SAFETENSORS)]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in names.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in sorted(stale)),
    ]
    with _one_line_errors(repository), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the Hub about the card, such as a missing licence
        if before is None:
            api.create_repo(repository, private=not public)
        parent = None if before is None else before.sha
        api.create_commit(repository, operations, commit_message=message, parent_commit=parent)
    return f"{api.endpoint}/{repository}"


@contextmanager
def _one_line_errors(repository: str) -> Iterator[None]:
    try:
        yield
    except WhispertuneError:
        raise
    # The client raises its own errors, OSError, ValueError, RuntimeError, and those of its HTTP libraries, which vary.
    except Exception as error:
        raise _explained(repository, error) from error


def _explained(repository: str, error: BaseException) -> WhispertuneError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return _refused(repository, "HF_HUB_OFFLINE is set; unset it to upload")
    if isinstance(error, ValueError) and "README.md" in str(error):
        return _refused(repository, f"the Hub does not accept the card ({' '.join(str(error).split())})")
    while (status := _status(error)) is None and error.__cause__ is not None:  # which alone may say what happened
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if status == 401:
        return _refused(repository, "the Hub does not accept the token; run `hf auth login` again, or correct HF_TOKEN")
    if status == 403:
        namespace = repository.partition("/")[0]
        return _refused(
            repository, f"the token may not write to {namespace}; check the name, and that the token may write there"
        )
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return ExportError(
        f"--to hub:{repository}: uploading failed ({reason}); the same command tries again, and sends only what "
        "has not arrived"
    )


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _refused(repository: str, problem: str) -> RecipeError:
    return RecipeError(f"--to hub:{repository}: {problem}")
