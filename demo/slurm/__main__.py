"""`python -m demo.slurm install | start DIR | stop DIR`: a complete Slurm on this machine."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from demo.slurm.cluster import DemoSlurm
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
    actions.add_parser("install", help="install Debian's packages that are missing").set_defaults(
        act=_install
    )
    start = actions.add_parser("start", help="start a cluster in a directory, or its daemons that do not run")
    start.add_argument("directory", type=Path)
    start.add_argument("--nodes", type=int, default=2)
    start.add_argument("--gpus", type=int, default=8, help="per node; the GPUs are simulated")
    start.set_defaults(act=_start)
    stop = actions.add_parser("stop", help="stop the cluster of a directory")
    stop.add_argument("directory", type=Path)
    stop.add_argument("--purge", action="store_true", help="remove the directory, too")
    stop.set_defaults(act=_stop)
    return parser


def _install(_: argparse.Namespace) -> None:
    with console.status("Searching for Slurm; apt-get installs missing packages"):
        packages = install()
    console.print(f"Installed {' '.join(packages)}" if packages else "Slurm is installed.", markup=False)


def _start(arguments: argparse.Namespace) -> None:
    started = time.monotonic()

    def progress(name: str) -> None:
        console.print(f"{time.monotonic() - started:5.1f} s  {name}", style="dim", markup=False)

    with console.status("Starting Slurm"):
        sizes = {"nodes": arguments.nodes, "gpus": arguments.gpus}
        cluster = DemoSlurm.start(arguments.directory, progress=progress, **sizes)
    _print_commands(cluster)


def _print_commands(cluster: DemoSlurm) -> None:
    console.print("Slurm is ready. Run a command, or log in:")
    for line in (
        f"SLURM_CONF={cluster.conf} sinfo",
        f"ssh -i {cluster.ssh_key} -o UserKnownHostsFile={cluster.known_hosts} "
        f"-p {cluster.ssh_port} {cluster.user}@127.0.0.1",
        f"{sys.executable} -m demo.slurm stop {cluster.directory}",
    ):
        console.print(f"  {line}", style="cyan", markup=False)


def _stop(arguments: argparse.Namespace) -> None:
    try:
        cluster = DemoSlurm.load(arguments.directory)
    except FileNotFoundError:
        console.print(f"No cluster was started in {arguments.directory}.", markup=False)
        return
    with console.status("Stopping Slurm"):
        cluster.stop(purge=arguments.purge)
    console.print("Slurm has stopped.")


if __name__ == "__main__":
    sys.exit(main())
