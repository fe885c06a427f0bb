"""Read Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Return values by name and labels."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples with this name and these labels."""
    wanted = labels.items()
    return sum(number for has, number in samples(text).get(name, {}).items() if wanted <= set(has))
