"""Reading Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Values by name and labels."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    wanted = labels.items()
    return sum(number for has, number in samples(text).get(name, {}).items() if wanted <= set(has))
