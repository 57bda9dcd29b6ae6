"""How often each caller may ask, by the library `limits`."""

from __future__ import annotations

import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from runtime.serving.errors import RateLimitError


class RateLimit:
    """At most so many requests of one caller within any minute."""

    def __init__(self, requests_per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(requests_per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, key: str) -> None:
        """Count a request of the caller with this key's name.

        Raises:
            RateLimitError: that was one too many.
        """
        if not self._limiter.hit(self._item, key):
            again = self._limiter.get_window_stats(self._item, key).reset_time - time.time()
            raise RateLimitError(f"requests: expected at most {self._item.amount} a minute, found more", again)
