"""What can go wrong with a head map, as one small family of errors.

Each message says what was asked, what is true, and what to do; `__cause__` keeps what the Hub client raised.
"""

from __future__ import annotations


class HeadMapError(Exception):
    """A head map could not be read, fetched or published."""


class HeadMapFormatError(HeadMapError, ValueError):
    """The files of a head map are missing, damaged, hostile, or of a format this version does not read."""


class HeadMapHubError(HeadMapError, OSError):
    """The Hub could not do what was asked; where the cause is known it is one of the subclasses."""


class HeadMapNotFoundError(HeadMapHubError, FileNotFoundError):
    """No such repository (or one this login may not see), no such revision in it, or no head map there."""


class HeadMapAccessError(HeadMapHubError, PermissionError):
    """The Hub refuses this user: a gated repository, a wrong token, or no right to write."""


class HeadMapConnectionError(HeadMapHubError, ConnectionError):
    """No answer from a Hub: offline, the server is down or is no Hub, or a transfer broke off."""


class HeadMapConflictError(HeadMapHubError):
    """The repository's state contradicts the request: it changed meanwhile, or a tag stands elsewhere."""
