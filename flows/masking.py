"""Secrets that this process has read, so that nothing it prints can show them, whatever error carries them."""

from __future__ import annotations

from typing import Final

MASK: Final = "********"
_SHORTEST: Final = 4  # masking every `a` would tell more than it hides
_known: set[str] = set()


def remember(secret: str) -> str:
    """Mask it from now on; returns it."""
    if len(secret) >= _SHORTEST:
        _known.add(secret)
    return secret


def masked(text: str) -> str:
    """The text without the secrets."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    return text
