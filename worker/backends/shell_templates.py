"""Shell scripts from templates: what is put in is quoted by the filter `quote`, or was checked before."""

import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str) -> Environment:
    """The templates of a backend."""
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # shell, not HTML: what is not ours is quoted
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment
