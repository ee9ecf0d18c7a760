"""Pages from templates: single files that load nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whispertune import __version__
from whispertune.errors import RunFolderError
from whispertune.system.console import printable

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("whispertune.report"),
        autoescape=True,  # of everything: no name and no transcript is markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else printable(value),
    )
    made.filters["svg"] = lambda plot: Markup(plot.svg())  # matplotlib has escaped its texts
    made.filters["tight"] = lambda text: text.replace(" %", "\u00a0%")  # a sign stays with its figure
    return made


MARK = "Written by whispertune "
"""In every page, and at the end of tables that are written to a file: what may be replaced by a later report."""
CSV_START = b"table,"
"""Start of tables as CSV, which has no comments that could contain a mark."""
_TAIL = 16_384
"""Bytes at the end of a page that contain its mark: the footer and the script."""


def require_replaceable(path: Path) -> None:
    """Refuse to replace a file that no report wrote.

    Raises:
        RunFolderError: naming it.
    """
    if not os.path.lexists(path):
        return
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            if file.read(len(CSV_START)) == CSV_START:
                return
            file.seek(max(0, path.stat().st_size - _TAIL))
            if MARK.encode() in file.read():
                return
    raise RunFolderError(
        f"{path} would be overwritten, but `whispertune report` did not write it; move it away, or name another "
        "--output"
    )


def render(template: str, content: Mapping[str, Any]) -> str:
    """A page from one of the templates."""
    return _environment().get_template(template).render(**content, mark=MARK, version=__version__)
