"""Asking huggingface_hub, and what its refusals mean for a head map: one exception of the small family for each.

The clients differ: 0.x has the exceptions of requests, 1.x of httpx, 2.x of httpx2. In all of them
LocalEntryNotFoundError, "no network", is an EntryNotFoundError.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from corehead_hf._version import __version__
from corehead_hf.head_map.errors import (
    HeadMapAccessError,
    HeadMapConflictError,
    HeadMapConnectionError,
    HeadMapHubError,
    HeadMapNotFoundError,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
LIBRARY: dict[str, Any] = {"library_name": "corehead_hf", "library_version": __version__}
TRIES = 3
_FIRST_PAUSE = 0.5  # seconds before the second try; doubled before the third
_CLIENTS_OWN_TRIES = 5.0  # seconds; a call that failed after more was tried again by the client itself
_CLIENTS = {"httpx", "httpx2", "requests", "urllib3"}


# Status -> the error, what the Hub did, and what to do.
_BY_STATUS: dict[int, tuple[type[HeadMapHubError], str, str]] = {
    401: (
        HeadMapAccessError,
        "accepts no login from here: there is no token, or it is wrong, expired or revoked",
        "log in with `hf auth login`, or pass a valid token=",
    ),
    403: (
        HeadMapAccessError,
        "does not allow this login to do that",
        "use a token with the right to write and a repository of your own, or ask its owner; create_pr=True proposes a "
        "change to a public one",
    ),
    404: (
        HeadMapConnectionError,
        "answered 404 without saying what is missing: it is no Hub, or lacks this service",
        "check HF_ENDPOINT and endpoint=",
    ),
    409: (HeadMapConflictError, "has it already", "take another name"),
    412: (HeadMapConflictError, "saw the repository change meanwhile", "look at what changed, then push again"),
    500: (HeadMapConnectionError, f"answered {{status}}, {TRIES} times", "try again later"),  # and above
    429: (HeadMapConnectionError, "had too many requests from here", "wait a few minutes; logged-in users have more"),
}


@dataclass(frozen=True)
class Request:
    """What was asked, for the messages.

    Attributes:
        what: such as "the head map 'owner/name'".
        repo_id: owner/name.
        revision: branch, tag or commit; None is main.
        endpoint: address of the Hub; None is HF_ENDPOINT's.
        file: its name in the map's folder, where one is asked for; a folder or the cache would have done as well.
    """

    what: str
    repo_id: str
    revision: str | None = None
    endpoint: str | None = None
    file: str | None = None

    @property
    def address(self) -> str:
        """Of the Hub."""
        return self.endpoint or constants.ENDPOINT


def is_server_error(error: Exception) -> bool:
    """True for a 5xx answer."""
    return _status(_cause(error) if isinstance(error, LocalEntryNotFoundError) else error) >= 500


def is_transient(error: Exception) -> bool:
    """True where the same request may well succeed in a moment: a 5xx answer or a broken connection."""
    lasting = (OfflineModeIsEnabled, FileMetadataError, JSONDecodeError, LocalEntryNotFoundError)
    is_broken = _is_network(error) and not isinstance(error, lasting) and "xet" not in str(error).lower()
    return is_broken or is_server_error(error)


def ask(
    request: Request,
    call: Callable[[], T],
    hint: Callable[[Exception], str] = lambda error: "",
    again: Callable[[Exception], bool] = is_transient,
) -> T:
    """call(), tried again where that may help, with every refusal of the client as one of the family's."""
    for attempt in range(TRIES):
        started = time.monotonic()
        try:
            return call()
        except Exception as error:
            waited = time.monotonic() - started
            if attempt + 1 == TRIES or waited > _CLIENTS_OWN_TRIES or not again(error):
                reason = refusal(request, error, hint(error))
                if reason is error:
                    raise
                raise reason from error
            logger.info("%s: %s; try %d of %d follows", request.what, error, attempt + 2, TRIES)
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def alternatives(api: HfApi, request: Request, error: Exception) -> str:
    """What there is instead of a missing revision, or of a missing file; empty where that cannot be listed."""
    try:
        if isinstance(error, RevisionNotFoundError):
            refs = api.list_repo_refs(request.repo_id)
            kinds = {"branches": refs.branches, "tags": refs.tags}
            return "".join(f"; {kind}: {_listed(ref.name for ref in found)}" for kind, found in kinds.items())
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            found = [PurePosixPath(file) for file in api.list_repo_files(request.repo_id, revision=request.revision)]
            return f"; folders with one: {_listed(str(file.parent) for file in found if file.name == request.file)}"
    except Exception as reason:  # the error itself is what matters
        logger.debug("no alternatives for %r: %r", error, reason)
    return ""


def refusal(request: Request, error: Exception, hint: str = "") -> Exception:
    """The exception to raise from `error`; `error` itself where it is not about the Hub, such as a full disk.

    A hint says what there is instead of something missing, starting with its own punctuation.
    """
    # So the client wraps what went wrong before a forced download.
    if type(error) is ValueError and isinstance(error.__cause__, Exception):
        return refusal(request, error.__cause__, hint)
    if isinstance(error, HFValidationError):
        folder = "not an existing folder, nor a Hub id - pass a folder, or owner/name."
        found = folder if request.file else "no Hub id - pass owner/name."
        return HeadMapNotFoundError(f"{request.what} was asked for - {request.repo_id!r:.100} is {found}")
    # No network, or nothing cached; before EntryNotFoundError, of which it is a kind.
    if isinstance(error, LocalEntryNotFoundError):
        cause = _cause(error)
        return _of_status(request, cause) if _status(cause) else _of_connection(request, cause)
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)):
        return _of_absence(request, error, hint)
    if _status(error):
        return _of_status(request, error)
    # hf_xet raises RuntimeError, of which RecursionError is a kind; a web page in place of an answer is no JSON.
    if _is_network(error) or type(error) is RuntimeError or isinstance(error, JSONDecodeError):
        return _of_connection(request, error)
    return error


def _of_absence(request: Request, error: Exception, hint: str) -> HeadMapHubError:
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError
        return HeadMapAccessError(
            f"{request.what} was asked for - {request.repo_id} is gated: only users its owner approved may read it - "
            f"ask for access at {request.address}/{request.repo_id}, then log in with `hf auth login` or pass token=."
        )
    if isinstance(error, RepositoryNotFoundError):
        return HeadMapNotFoundError(
            f"{request.what} was asked for - {request.address} shows no repository {request.repo_id} to this login"
            f"{', and there is no folder of that name' if request.file else ''}: it does not exist, or it is private "
            "- check the spelling; if it is private, log in with `hf auth login` or pass token=."
        )
    if isinstance(error, RevisionNotFoundError):
        return HeadMapNotFoundError(
            f"{request.what} was asked for - {request.repo_id} has no branch, tag or commit "
            f"{request.revision or 'main'!r}{hint} - pass one that it has as revision=."
        )
    return HeadMapNotFoundError(
        f"{request.what} was asked for - the repository {request.repo_id} is there, but holds no head map at this "
        f"place: no {request.file}{hint} - check the repository and subfolder=."
    )


def _of_status(request: Request, error: Exception) -> HeadMapHubError:
    status = _status(error)
    kind, did, advice = _BY_STATUS.get(min(status, 500), (HeadMapHubError, f"answered {status}", "see that answer"))
    found = f"{request.address} {did.format(status=status)}{_said(error)}"
    return kind(f"{request.what} was asked for - {found} - {advice}.")


def _of_connection(request: Request, error: Exception) -> HeadMapConnectionError:
    cold = "no complete copy is in the cache; go online once, or pass the folder of a copy"
    advice = cold if request.file else "go online"
    if isinstance(error, (FileMetadataError, JSONDecodeError)):
        found = f"{request.address} does not answer like a Hub ({_line(error)})"
        advice = "check HF_ENDPOINT, endpoint= and the proxy"
    elif "xet" in str(error).lower() or isinstance(error, RuntimeError):
        found = f"the transfer through Xet failed ({_line(error)}): this Hub may not offer it"
        advice = "set HF_HUB_DISABLE_XET=1 before Python starts, and try again"
    elif constants.HF_HUB_OFFLINE:
        found = "HF_HUB_OFFLINE is set"
    elif isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        found = "local_files_only is set"
    else:
        found = f"{request.address} gives no answer ({_line(error)}); check the network and HF_ENDPOINT"
    return HeadMapConnectionError(f"{request.what} was asked for - {found} - {advice}.")


def _cause(error: Exception) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, Exception) else error


def _status(error: Exception) -> int:
    """Of the HTTP answer, for which 0.x may raise requests' own error; 0 without one."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _listed(names: Iterable[str]) -> str:
    return f"{', '.join(repr(name) for name in sorted(names)) or 'none'!s:.300}"


def _said(error: Exception) -> str:
    text = getattr(error, "server_message", None)
    return f' ("{" ".join(str(text).split())!s:.200}")' if text else ""


def _is_network(error: Exception) -> bool:
    if _status(error):
        return False
    # httpx's errors are no OSErrors; an OSError with a number that is no ConnectionError is the disk's.
    if type(error).__module__.partition(".")[0] in _CLIENTS or isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno is None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.150}"
