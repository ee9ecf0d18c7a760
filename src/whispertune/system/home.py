"""The user's home folder: the cache folder, and paths that start with `~`."""

from __future__ import annotations

import os
from pathlib import Path

from whispertune.errors import RecipeError


def cache_folder() -> Path:
    """~/.cache/whispertune, or the same below XDG_CACHE_HOME.

    Raises:
        RecipeError: if this user has no home folder (a container that runs under an unknown user id).
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "whispertune"
    except RuntimeError:
        raise RecipeError("this user has no home folder to keep a cache in; set XDG_CACHE_HOME to a folder") from None


def expand_home(path: str) -> Path:
    """Expand a `~` or `~name` at the start of a path; `./~x` is a file of that name.

    Raises:
        RecipeError: if there is no such user, or the user has no home folder.
    """
    if not path.startswith("~"):  # Path("./~x") is Path("~x"), and would be expanded
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RecipeError(
            f"{path}: no home folder is known for {path.split('/')[0]}; give the full path, or ./{path} if it is a file"
        ) from None
