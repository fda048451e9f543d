"""Why replicated state did not take a command: as codes, which are replicated, and in words, which are not.

Rules:

1. Results are kept with the sessions and are a part of the state. So a refusal there is its code, what it is
   about, a number and what helps; the words are put to it where it is read, and may be mended at any time.
2. A code keeps its meaning, its number's meaning and what helps for ever.
"""

from __future__ import annotations

from p2pinfer.errors import CommandRefused, Retry
from p2pinfer.wire.messages.sessions import Refusal

__all__ = ["REASONS", "error_of", "refusal_of", "refused"]

ABOUT_SIZE_MAX = 512

REASONS: dict[str, tuple[Retry, str]] = {
    # Of sessions.
    "malformed": (Retry.NEVER, "these bytes are no command"),
    "session_expired": (
        Retry.REOPEN,
        "session {number} has ended: open another, and take what had no answer in it for unknown",
    ),
    "wrong_sequence": (Retry.NEVER, "a command's sequence is one without an answer, from 1 on, not {number}"),
    "answered_before": (Retry.NEVER, "the client has said that it has the answer to command {number}"),
    "too_many_unanswered": (
        Retry.LATER,
        "too many commands of the session wait for their answers to be acknowledged, from {number} on",
    ),
    "too_many_sessions": (Retry.LATER, "all {number} sessions are in use"),
    # Of formats.
    "later_format": (Retry.LATER, "the command is of format {number}, which the metadata does not have yet"),
    "wrong_format": (Retry.NEVER, "the format is raised one by one: the next is {number}"),
    # Of keys and values.
    "wrong_key": (
        Retry.NEVER,
        "{about} is no key: a section, a slash and a name, in printable ASCII without blanks",
    ),
    "wrong_section": (Retry.NEVER, "{about} is in no section that the metadata has"),
    "wrong_place": (Retry.NEVER, "this value stands under {about}"),
    "wrong_value": (Retry.NEVER, "{about} takes a value of another form"),
    "managed_key": (Retry.NEVER, "{about} is written by EditModel, which resolves edits that cross"),
    "changed_twice": (Retry.NEVER, "{about} is changed twice by one transaction: change it once"),
    "too_many_keys": (Retry.LATER, "the metadata has at most {number} keys: delete some"),
    "too_large": (Retry.LATER, "the metadata has at most {number} bytes: delete some"),
    "too_many_touched": (Retry.NEVER, "a transaction touches at most {number} keys by prefixes: split it"),
    "result_too_large": (Retry.NEVER, "a transaction returns at most {number} bytes: ask for less"),
    # Of models.
    "wrong_model": (
        Retry.NEVER,
        "{about} is no NAME:TAG: letters, digits, dots, dashes and underscores, and slashes in the name",
    ),
    "wrong_vector": (Retry.NEVER, "a version vector is sorted by peer, names each once, and counts its edit"),
    "wrong_manifest": (Retry.NEVER, "a manifest is named by 32 bytes, or by none to withdraw the model"),
    "wrong_labels": (Retry.NEVER, "labels are sorted by name, which is not empty and comes once"),
    "vector_used": (
        Retry.REREAD,
        "another edit of {about} has this version vector: read it, and count one more edit of your own",
    ),
    "superseded": (Retry.REREAD, "a later edit of {about} knew of this one: read it, and edit that"),
    "too_many_versions": (
        Retry.REREAD,
        "{number} versions of a model stand beside each other at most: edit {about} with all of them known",
    ),
    "too_many_editors": (
        Retry.NEVER,
        "a model is edited by at most {number} peers: delete {about}, and register it anew",
    ),
    "model_too_large": (
        Retry.NEVER,
        "the versions of {about} have more than {number} bytes: use fewer labels, or decide between them",
    ),
    # Of leases.
    "lease_held": (Retry.LATER, "another holds the lease {about}"),
    "lease_lost": (Retry.REREAD, "token {number} holds no lease (any more): acquire {about} anew"),
    "too_many_leases": (Retry.LATER, "there are {number} leases, and no more can be"),
    "too_many_attached": (Retry.NEVER, "a lease has at most {number} keys attached to it"),
    "wrong_ttl": (Retry.NEVER, "no lease lasts {number} ms: too short for a commit, or too long"),
}
"""By code: what helps, and the words for people."""


def refused(code: str, about: str = "", number: int = 0, *, retry_after_ms: int = 0) -> CommandRefused:
    """Return the error to raise inside a state machine.

    Args:
        code: One of `REASONS`.
        about: The key or the name that it is about.
        number: The number in the words: a limit, or what was out of bounds.
        retry_after_ms: When it makes sense to come back; 0 where that is unknown.
    """
    refusal = Refusal(
        code=code,
        about=about[:ABOUT_SIZE_MAX] if about.isascii() else "",
        number=number,
        retry=REASONS[code][0],
        retry_after_ms=retry_after_ms,
    )
    return error_of(refusal)


def refusal_of(error: CommandRefused) -> Refusal:
    """Return a refusal as it stands in a result."""
    after_ms = 0 if error.retry_after_s is None else round(error.retry_after_s * 1000)
    return Refusal(
        code=error.code, about=error.about, number=error.number, retry=error.retry, retry_after_ms=after_ms
    )


def error_of(refusal: Refusal) -> CommandRefused:
    """Return the error that a refusal in a result stands for; of a code not known here it says that."""
    about = refusal.about
    shown = about if about.isascii() and about.isprintable() else ascii(about)
    _, words = REASONS.get(refusal.code, (Retry.NEVER, "refused for a reason of newer software ({code})"))
    is_known = refusal.retry in Retry.__members__.values()
    return CommandRefused(
        refusal.code,
        words.format(code=refusal.code, about=shown or "it", number=refusal.number),
        about=about,
        number=refusal.number,
        retry=Retry(refusal.retry) if is_known else Retry.NEVER,
        retry_after_s=refusal.retry_after_ms / 1000 if refusal.retry_after_ms else None,
    )
