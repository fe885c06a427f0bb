"""The database of slurmdbd, and the users who may submit."""

import shutil
import subprocess
from pathlib import Path

from demo.slurm.config import Config
from demo.slurm.daemons import ClusterError

INSTALL_SECONDS = 120
COMMAND_SECONDS = 30
MAX_ATTEMPTS = 3
ACCOUNT = "test"
COMPLETE_MARKER = "made-whole"


def make_data(directory: Path) -> None:
    """Create the files of an empty database server, unless they exist."""
    attempts = 0
    while not (directory / "mariadb" / COMPLETE_MARKER).exists():
        attempts += 1
        try:
            _make_data(directory / "mariadb")
        except ClusterError:  # observed once, on a busy machine: partial files are unusable
            if attempts == MAX_ATTEMPTS:
                raise


def _make_data(data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    shutil.chown(data, "mysql", "mysql")
    command = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db"]
    _run(command, timeout=INSTALL_SECONDS)
    (data / COMPLETE_MARKER).touch()


def server(config: Config) -> list[str]:
    """Return the command that starts the database server."""
    data = config.directory / "mariadb"
    return [
        "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={data}/socket",
        f"--pid-file={data}/own", "--bind-address=127.0.0.1", f"--port={config.mariadb_port}",
        "--skip-name-resolve",
        # slurmdbd warns about the defaults of the first two; the last saves a disk write per transaction.
        "--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900",
        "--innodb-flush-log-at-trx-commit=2",
    ]  # fmt: skip


def responds(directory: Path) -> bool:
    try:
        _query(directory, "SELECT 1;")
    except (ClusterError, subprocess.TimeoutExpired):
        return False
    return True


def make_database(config: Config) -> None:
    """Create slurmdbd's database and its user."""
    _query(
        config.directory,
        "CREATE DATABASE IF NOT EXISTS slurm;"
        f"CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY '{config.password}';"
        "GRANT ALL ON slurm.* TO slurm@'127.0.0.1';",
    )


def _query(directory: Path, statements: str) -> None:
    """Run statements as the database's root, authenticated by the socket."""
    socket = directory / "mariadb" / "socket"
    _run(["mariadb", "--no-defaults", f"--socket={socket}"], stdin=statements, timeout=COMMAND_SECONDS)


def _run(command: list[str], *, timeout: float, stdin: str = "") -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise ClusterError(f"{command[0]} failed with {done.returncode}: {done.stdout}{done.stderr}")


def associations(user: str) -> list[list[str]]:
    """Return the commands that let root and the user submit; they keep existing associations."""
    add = ["sacctmgr", "--immediate", "add"]
    return [
        [*add, "cluster", "test"],
        [*add, "account", ACCOUNT, "Cluster=test"],
        *(
            [*add, "user", name, f"Account={ACCOUNT}", "Cluster=test"]
            for name in dict.fromkeys(["root", user])
        ),
    ]
