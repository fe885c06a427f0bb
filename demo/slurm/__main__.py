"""`python -m demo.slurm install | start DIR | stop DIR`: a whole Slurm on this machine."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from demo.slurm.cluster import Cluster
from demo.slurm.daemons import ClusterError
from demo.slurm.install import NotInstalled, install

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    arguments = _parser().parse_args()
    try:
        arguments.act(arguments)
    except (NotInstalled, ClusterError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.slurm", description=__doc__)
    actions = parser.add_subparsers(required=True)
    actions.add_parser("install", help="Debian's packages, where they are missing").set_defaults(act=_install)
    start = actions.add_parser("start", help="start a cluster in a directory, or what does not run of it")
    start.add_argument("directory", type=Path)
    start.add_argument("--nodes", type=int, default=2)
    start.add_argument("--gpus", type=int, default=8, help="of a node; they are make-believe")
    start.set_defaults(act=_start)
    stop = actions.add_parser("stop", help="end the cluster of a directory")
    stop.add_argument("directory", type=Path)
    stop.add_argument("--purge", action="store_true", help="remove the directory, too")
    stop.set_defaults(act=_stop)
    return parser


def _install(_: argparse.Namespace) -> None:
    with console.status("Looking for Slurm; apt-get fetches what is missing"):
        packages = install()
    console.print(f"Installed {' '.join(packages)}" if packages else "Slurm is here.", markup=False)


def _start(arguments: argparse.Namespace) -> None:
    began = time.monotonic()

    def progress(name: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {name}", style="dim", markup=False)

    with console.status("Starting Slurm"):
        sizes = {"nodes": arguments.nodes, "gpus": arguments.gpus}
        cluster = Cluster.start(arguments.directory, progress=progress, **sizes)
    _print_ways_in(cluster)


def _print_ways_in(cluster: Cluster) -> None:
    console.print("Slurm is ready. Ask it, or log in:")
    for line in (
        f"SLURM_CONF={cluster.conf} sinfo",
        f"ssh -i {cluster.ssh_key} -o UserKnownHostsFile={cluster.known_hosts} "
        f"-p {cluster.ssh_port} {cluster.user}@127.0.0.1",
        f"{sys.executable} -m demo.slurm stop {cluster.directory}",
    ):
        console.print(f"  {line}", style="cyan", markup=False)


def _stop(arguments: argparse.Namespace) -> None:
    try:
        cluster = Cluster.load(arguments.directory)
    except FileNotFoundError:
        console.print(f"No cluster was started in {arguments.directory}.", markup=False)
        return
    with console.status("Ending Slurm"):
        cluster.stop(purge=arguments.purge)
    console.print("Slurm has ended.")


if __name__ == "__main__":
    sys.exit(main())
