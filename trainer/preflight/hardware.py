"""What a run would occupy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Nodes and their accelerators; what the cluster profile does not say is None."""

    nodes: int
    gpus_per_node: int
    gpu_type: str | None = None
    gpu_memory_gib: float | None = None

    @property
    def gpus(self) -> int:
        """The world size: one rank a GPU."""
        return self.nodes * self.gpus_per_node
