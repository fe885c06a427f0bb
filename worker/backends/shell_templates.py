"""Shell scripts from templates. Inserted values are quoted by the filter `quote`, or validated before."""

import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str) -> Environment:
    """Return the template environment of a backend's package."""
    environment = Environment(  # shell, not HTML  # nosec B701
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # shell, not HTML: values are quoted or validated
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment
