"""The database below slurmdbd, and who may submit."""

import shutil
import subprocess
from pathlib import Path

from demo.slurm.config import Config
from demo.slurm.daemons import ClusterError

INSTALL_SECONDS = 120
COMMAND_SECONDS = 30
MAX_ATTEMPTS = 3
ACCOUNT = "test"
MADE = "made-whole"


def make_data(directory: Path) -> None:
    """An empty database server's files, once."""
    attempts = 0
    while not (directory / "mariadb" / MADE).exists():
        attempts += 1
        try:
            _make_data(directory / "mariadb")
        except ClusterError:  # seen once, on a busy machine: what was made until then is of no use
            if attempts == MAX_ATTEMPTS:
                raise


def _make_data(data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    shutil.chown(data, "mysql", "mysql")
    command = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db"]
    _run(command, timeout=INSTALL_SECONDS)
    (data / MADE).touch()


def server(config: Config) -> list[str]:
    """The command that starts the database server."""
    data = config.directory / "mariadb"
    return [
        "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={data}/socket",
        f"--pid-file={data}/own", "--bind-address=127.0.0.1", f"--port={config.mariadb_port}",
        "--skip-name-resolve",
        # slurmdbd complains about the first two's defaults; the last saves a disk write a transaction.
        "--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900",
        "--innodb-flush-log-at-trx-commit=2",
    ]  # fmt: skip


def answers(directory: Path) -> bool:
    try:
        _query(directory, "SELECT 1;")
    except (ClusterError, subprocess.TimeoutExpired):
        return False
    return True


def make_database(config: Config) -> None:
    """slurmdbd's, and its user."""
    _query(
        config.directory,
        "CREATE DATABASE IF NOT EXISTS slurm;"
        f"CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY '{config.password}';"
        "GRANT ALL ON slurm.* TO slurm@'127.0.0.1';",
    )


def _query(directory: Path, statements: str) -> None:
    """As the database's root, whom it knows by the socket."""
    socket = directory / "mariadb" / "socket"
    _run(["mariadb", "--no-defaults", f"--socket={socket}"], stdin=statements, timeout=COMMAND_SECONDS)


def _run(command: list[str], *, timeout: float, stdin: str = "") -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise ClusterError(f"{command[0]} failed with {done.returncode}: {done.stdout}{done.stderr}")


def associations(user: str) -> list[list[str]]:
    """The commands that let root and the user submit; what is there already they leave."""
    add = ["sacctmgr", "--immediate", "add"]
    return [
        [*add, "cluster", "test"],
        [*add, "account", ACCOUNT, "Cluster=test"],
        *(
            [*add, "user", name, f"Account={ACCOUNT}", "Cluster=test"]
            for name in dict.fromkeys(["root", user])
        ),
    ]
