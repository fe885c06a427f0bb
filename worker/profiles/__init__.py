"""What a cluster is: a table of clusters.toml. Names are those of Nemotron's env.toml where it has them."""

from typing import Annotated

from pydantic import Discriminator

from worker.profiles.base import Cluster
from worker.profiles.lepton import LeptonCluster
from worker.profiles.local import LocalCluster
from worker.profiles.slurm import SlurmCluster

__all__ = ["Cluster", "LeptonCluster", "LocalCluster", "Profile", "SlurmCluster"]

Profile = Annotated[LocalCluster | SlurmCluster | LeptonCluster, Discriminator("executor")]
