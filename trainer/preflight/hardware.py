"""The hardware of a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Nodes and their accelerators; None for values that the cluster profile does not have."""

    nodes: int
    gpus_per_node: int
    gpu_type: str | None = None
    gpu_memory_gib: float | None = None

    @property
    def gpus(self) -> int:
        """The world size: one rank per GPU."""
        return self.nodes * self.gpus_per_node
