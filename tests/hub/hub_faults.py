"""What can go wrong on the way, switched on for the requests that match."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# status:NNN      the answer is this error
# truncate        the connection ends after half of the body that was announced
# corrupt         the body's last byte is another one; its size and ETag are right
# hang:SECONDS    the answer comes late
# no-commit       the headers by which a client knows a Hub are missing
# web-page        200 and a page of HTML, as any web server answers
KINDS = r"status:\d{3}|truncate|corrupt|hang:[\d.]+|no-commit|web-page"


@dataclass
class Fault:
    """One fault.

    Attributes:
        method: GET, HEAD, ... or * for any.
        pattern: regular expression, searched for in the request's path and query.
        kind: see above.
        times: how many matching requests meet it.
        message: what an error of `status` says.
        effect: called when a request meets it, before the answer is made.
    """

    method: str
    pattern: str
    kind: str
    times: int = 1
    message: str = "injected"
    effect: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        if not re.fullmatch(KINDS, self.kind):
            raise ValueError(f"{self.kind!r} is no kind of fault")

    @property
    def status(self) -> int | None:
        return int(self.kind[7:]) if self.kind.startswith("status:") else None

    @property
    def seconds(self) -> float:
        return float(self.kind[5:]) if self.kind.startswith("hang:") else 0.0


def take(faults: list[Fault], method: str, path: str) -> Fault | None:
    """The first fault that this request meets, counted down."""
    for fault in faults:
        if fault.times > 0 and fault.method in (method, "*") and re.search(fault.pattern, path):
            fault.times -= 1
            return fault
    return None
