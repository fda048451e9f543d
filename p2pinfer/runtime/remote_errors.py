"""How an error crosses from one peer to another: by the name of its class, from a fixed table.

What is not in the table crosses as "internal error at the peer", without details: they are of no use to the
other end and may be nobody's business.
"""

from __future__ import annotations

from p2pinfer import errors
from p2pinfer.errors import P2PInferError, UnavailableError

__all__ = ["code_of", "error_of", "retry_after_ms_of", "text_of"]

_TABLE: dict[str, type[P2PInferError]] = {
    name: getattr(errors, name) for name in errors.__all__ if issubclass(getattr(errors, name), P2PInferError)
}
_INTERNAL = UnavailableError("internal error at the peer; its log says more")


def code_of(error: Exception) -> str:
    """The name under which the error travels."""
    names = (ancestor.__name__ for ancestor in type(error).__mro__)
    return next((name for name in names if name in _TABLE), UnavailableError.__name__)


def text_of(error: Exception, size_bytes_max: int) -> str:
    """The error's message, cut to fit; nothing of an error that was not raised on purpose."""
    text = str(error if isinstance(error, P2PInferError) else _INTERNAL)
    return text.encode("utf-8", "replace")[:size_bytes_max].decode("utf-8", "ignore")


def retry_after_ms_of(error: Exception) -> int:
    """When to come back, in milliseconds; 0 where that is unknown."""
    after_s = error.retry_after_s if isinstance(error, UnavailableError) else None
    return max(0, min(int((after_s or 0.0) * 1000), 1 << 31))


def error_of(code: str, text: str, retry_after_ms: int = 0) -> P2PInferError:
    """The error that another peer told of, as one of ours; an unknown code is an `UnavailableError`."""
    kind = _TABLE.get(code, UnavailableError)
    message = " ".join(text.split()) or f"the other peer said {kind.__name__}"
    if issubclass(kind, UnavailableError):
        return kind(message, retry_after_s=retry_after_ms / 1000 if retry_after_ms else None)
    return kind(message)
