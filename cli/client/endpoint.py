"""The service's address, and the API key for it: from a file or the environment, never from an argument."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx2

from cli.client.errors import Misused, NoKey

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Endpoint:
    """The URL of a service, and the key file if one is given."""

    url: str = DEFAULT_URL
    key_file: Path | None = None

    def base_url(self) -> httpx2.URL:
        """Return the validated URL. Raises Misused if it cannot be the URL of a service."""
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise Misused(f"{self.url!r} is not a URL: {error}.", f"Example: {DEFAULT_URL}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise Misused(f"{self.url!r} is not an http or https URL.", f"Example: {DEFAULT_URL}")
        if url.userinfo or url.query or url.fragment:
            raise Misused(
                "The URL of a service must not contain a password, a query or a fragment.",
                "Set the key in SFT_API_KEY.",
            )
        return url

    def key(self) -> str:
        """Return the first key found, in the order that the help of `sft` lists. Raises Misused, NoKey."""
        key = self._configured_key() or self._local_admin_key()
        if not key:
            raise NoKey(
                f"There is no API key for {self.url}.",
                "Set SFT_API_KEY, or name a file that holds one: --key-file, SFT_API_KEY_FILE. "
                "For a service on this machine, setting SFT_DATA_DIR to its data directory is enough.",
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise Misused(
                "The API key contains characters that are not allowed in a key.",
                "A key is printable ASCII without spaces: sft_...",
            )
        return key

    def _configured_key(self) -> str | None:
        if self.key_file is None and (key := os.environ.get("SFT_API_KEY", "").strip()):
            return key
        if not (path := self.key_file or os.environ.get("SFT_API_KEY_FILE")):
            return None
        key = _read(Path(path))
        if not key:
            raise Misused(f"The key file {path} is empty.", "Write the API key into it.")
        return key

    def _local_admin_key(self) -> str | None:
        """Return the admin key that `sft serve` has written. It is never sent to another machine."""
        path = Path(os.environ.get("SFT_DATA_DIR") or "sft-data") / "admin.key"
        return _read(path) if self.is_local() and path.exists() else None

    def is_local(self) -> bool:
        """Return whether the service is on this machine."""
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
