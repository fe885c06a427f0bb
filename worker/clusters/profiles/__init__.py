"""Cluster profiles: the tables of clusters.toml. Field names follow Nemotron's env.toml where it has them."""

from typing import Annotated

from pydantic import Discriminator

from worker.clusters.profiles.base import Cluster
from worker.clusters.profiles.lepton import LeptonCluster
from worker.clusters.profiles.local import LocalCluster
from worker.clusters.profiles.slurm import SlurmCluster

__all__ = ["Cluster", "LeptonCluster", "LocalCluster", "Profile", "SlurmCluster"]

Profile = Annotated[LocalCluster | SlurmCluster | LeptonCluster, Discriminator("executor")]
