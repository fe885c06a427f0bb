"""Which service is meant, and with what key: one from a file or the environment, never an argument."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx2

from cli.client.errors import Misused, NoKey

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Where:
    """A service, and the file of a key where one is named."""

    url: str = DEFAULT_URL
    key_file: Path | None = None

    def base_url(self) -> httpx2.URL:
        """Raises Misused for what is not the address of a service."""
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise Misused(f"{self.url!r} is not a URL: {error}.", f"For example {DEFAULT_URL}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise Misused(f"{self.url!r} is not the URL of a service.", f"For example {DEFAULT_URL}")
        if url.userinfo or url.query or url.fragment:
            raise Misused("The URL of a service has no password, query or fragment.", "See SFT_API_KEY.")
        return url

    def key(self) -> str:
        """The first key that there is, as the help of `sft` lists them. Raises Misused, NoKey."""
        key = self._named() or self._of_this_machine()
        if not key:
            raise NoKey(
                f"There is no API key for {self.url}.",
                "Set SFT_API_KEY, or name a file that holds one: --key-file, SFT_API_KEY_FILE. "
                "For a service on this machine SFT_DATA_DIR, its directory, will do.",
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise Misused("The API key has characters that no key has.", "A key is one word: sft_...")
        return key

    def _named(self) -> str | None:
        if self.key_file is None and (key := os.environ.get("SFT_API_KEY", "").strip()):
            return key
        if not (path := self.key_file or os.environ.get("SFT_API_KEY_FILE")):
            return None
        key = _read(Path(path))
        if not key:
            raise Misused(f"The key file {path} is empty.")
        return key

    def _of_this_machine(self) -> str | None:
        """The admin's key where `sft serve` keeps it. It is never sent to another machine."""
        path = Path(os.environ.get("SFT_DATA_DIR") or "sft-data") / "admin.key"
        return _read(path) if self.is_here() and path.exists() else None

    def is_here(self) -> bool:
        """Whether the service is on this machine."""
        return _is_loopback(self.base_url().host)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Misused(f"The key file {path} cannot be read: {reason}.") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
