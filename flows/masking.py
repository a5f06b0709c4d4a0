"""Secrets that this process has read, so that nothing it prints can show them, whatever error carries them."""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import quote, quote_plus

MASK: Final = "********"
_SECRET_PROPERTY: Final = re.compile(
    r"password|passphrase|secret|credential|private|key\.pem|jaas|token|oauthbearer\.config", re.IGNORECASE
)
_NO_SECRET: Final = re.compile(r"(_file|\.url|\.id|\.file|\.location)$", re.IGNORECASE)
_LOGIN: Final = re.compile(r"(?<=://).*(?=@)|^(?!.*://).*(?=@)|(?<=\?).*", re.DOTALL)
_SHORTEST: Final = 4  # masking every `a` would tell more than it hides
_known: set[str] = set()


def remember(secret: str) -> str:
    """Mask it from now on; returns it."""
    if len(secret) >= _SHORTEST:
        _known.update(_spellings(secret))
    return secret


def _spellings(secret: str) -> set[str]:
    """As it is, and as logs, tracebacks and addresses write it: escaped for JSON, by repr, both, or for a URL."""
    found = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}
    for _ in range(2):  # a traceback's repr within a line of JSON
        for text in tuple(found):
            found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    return found


def masked(text: str) -> str:
    """The text without the secrets."""
    for secret in sorted(_known, key=len, reverse=True):  # one may be part of another
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def is_secret(name: str) -> bool:
    """Whether a Kafka property holds a secret itself (`<property>_file` and the like name a file that does)."""
    return bool(_SECRET_PROPERTY.search(name)) and not _NO_SECRET.search(name)


def without_login(address: str) -> str:
    """An address without what people put before its host or behind a question mark, where it does not belong."""
    return _LOGIN.sub(MASK, address)
