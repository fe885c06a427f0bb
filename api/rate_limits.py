"""Rate limits of requests: counted where a caller is authenticated, reported in the headers of the answer.

The headers are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.errors import TooManyRequests
from worker.limits.rates import Quota, Rate
from worker.limits.windows import MemoryWindows, SharedWindows
from worker.settings import Settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# An IPv6 client has a network of addresses to itself (RFC 6177).
IPV6_CLIENT_BITS = 64

SETTINGS = {
    "reads": "SFT_RATE_LIMIT_READS",
    "writes": "SFT_RATE_LIMIT_WRITES",
    "unauthenticated": "SFT_RATE_LIMIT_UNAUTHENTICATED",
}


class RateLimits:
    """The rates of an API process."""

    def __init__(self, settings: Settings) -> None:
        shared = SharedWindows(settings.redis_url) if settings.redis_url else MemoryWindows()
        self.reads = Rate.of("reads", settings.rate_limit_reads, MemoryWindows())
        self.writes = Rate.of("writes", settings.rate_limit_writes, shared)
        self.unauthenticated = Rate.of(
            "unauthenticated", settings.rate_limit_unauthenticated, MemoryWindows()
        )

    def count_stranger(self, request: Request) -> None:
        """Count a request without a valid key, by its address. Raises TooManyRequests."""
        _count(request, self.unauthenticated, client_network(request))

    def count_caller(self, request: Request, key_id: str) -> None:
        """Count a request with a valid key. Raises TooManyRequests."""
        _count(request, self.reads if request.method in SAFE_METHODS else self.writes, key_id)


def client_network(request: Request) -> str:
    """Return the address of a client, or the network of addresses that it has to itself."""
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(ip_network((address, IPV6_CLIENT_BITS), strict=False))


def _count(request: Request, rate: Rate | None, identity: str) -> None:
    if rate is None:
        request.state.quota = None
        return
    request.state.quota = quota = rate.hit(identity)
    if quota.is_exceeded:
        raise TooManyRequests(
            f"More than {quota.most} requests in {quota.seconds} s; they are counted as {quota.policy!r}.",
            hint=f"Wait as long as Retry-After says. The limit is the setting {SETTINGS[quota.policy]}.",
            retry_after=quota.reset_seconds,
        )


def rate_limits_of(app: FastAPI) -> RateLimits:
    limits: RateLimits = app.state.rate_limits
    return limits


# -- headers ---------------------------------------------------------------------------------------


class RateLimitHeaders:
    """Adds the headers of the quota that a request was counted by, if it was."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_quota(message: Message) -> None:
            quota = scope.get("state", {}).get("quota")
            if quota and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_headers(quota))
            await send(message)

        await self.app(scope, receive, send_with_quota)


def _headers(quota: Quota) -> dict[str, str]:
    return {
        "RateLimit-Policy": f'"{quota.policy}";q={quota.most};w={quota.seconds}',
        "RateLimit": f'"{quota.policy}";r={quota.remaining};t={quota.reset_seconds}',
    }
