"""Pages from templates: single files that load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from whispertune import __version__
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


def render(template: str, content: Mapping[str, Any]) -> str:
    """A page from one of the templates."""
    return _environment().get_template(template).render(**content, version=__version__)
