"""User ids as keyed hashes, before anything is stored (setting `user_key_file`): in rows, state and dead letters alike.

HMAC-SHA-256 with a key that only the engine reads: whoever has the tables cannot try ids out, as with a plain hash.
The same key gives the same pseudonym for ever; with another key users begin anew.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

import orjson
import polars as pl

from flows.errors import BadSetting
from schemas.decode_fields import FIELDS
from schemas.hashing import hash64, id_hash

_PREFIX: Final = "h1:"
_DIGEST_BYTES: Final = 20
_OURS: Final = re.compile(rf"{_PREFIX}[0-9a-f]{{{2 * _DIGEST_BYTES}}}")
_KEPT: Final = frozenset(field.name for field in FIELDS)
_MIN_KEY_BYTES: Final = 16
_MOST_KNOWN: Final = 1_000_000


class Pseudonyms:
    """Replaces user ids. What is a pseudonym already stays: repair and replay read what was stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, str] = {}

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """With the key in a file.

        Raises:
            BadSetting: it cannot be read, or is too short to be a secret.
        """
        try:
            key = path.expanduser().read_bytes().strip()
        except OSError as error:
            raise BadSetting("user_key_file", str(path), f"cannot be read: {error.strerror or error}") from error
        if len(key) < _MIN_KEY_BYTES:
            raise BadSetting(
                "user_key_file", str(path), f"the key has {len(key)} bytes; {_MIN_KEY_BYTES} are the least"
            )
        return cls(key)

    def of(self, user_id: str) -> str:
        """The pseudonym of an id."""
        found = self._known.get(user_id)
        if found is None:
            found = user_id if _OURS.fullmatch(user_id) else _PREFIX + self._digest(user_id)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[user_id] = found
        return found

    def _digest(self, user_id: str) -> str:
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).digest()[:_DIGEST_BYTES].hex()

    def frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Events (with event_id and user_id) under pseudonyms; their hashes are those of the pseudonyms."""
        if not frame.height:
            return frame
        users = frame["user_id"].unique()
        table = {user: self.of(user) for user in users.to_list()}
        hidden = frame["user_id"].replace_strict(list(table), list(table.values()), return_dtype=pl.String)
        user_hashes = hash64(hidden).to_numpy()
        ids = id_hash(user_hashes, hash64(frame["event_id"]).to_numpy())
        return frame.with_columns(
            hidden.alias("user_id"), pl.Series("user_hash", user_hashes), pl.Series("id_hash", ids)
        )

    def detail(self, message: bytes, detail: str) -> str:
        """What is wrong with a message, which may name a value that is the user's id."""
        try:
            event = orjson.loads(message)
        except orjson.JSONDecodeError:
            return detail
        user = event.get("user_id") if isinstance(event, dict) else None
        return detail.replace(user, self.of(user)) if isinstance(user, str) and user and user in detail else detail

    def raw(self, message: bytes) -> bytes:
        """A message with its user_id replaced; nothing of one in which it cannot be found for certain.

        Only the contract's fields are kept, and of these none that has the id somewhere within.
        """
        try:
            event = orjson.loads(message)
            if not isinstance(event, dict) or not isinstance(user := event.get("user_id"), str):
                return b""
            hidden = self.of(user)
            kept = {name: value for name, value in event.items() if name in _KEPT}
            kept = {name: hidden if value == user else value for name, value in kept.items()}
            return orjson.dumps({name: value for name, value in kept.items() if not _holds(value, user)})
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):  # it reads deeper than it writes
            return b""


def _holds(value: object, user: str) -> bool:
    """Whether an id stands within a value that is not the id's own field any more."""
    if isinstance(value, str):
        return bool(user) and user in value and not _OURS.fullmatch(value)
    return user == str(value) or (isinstance(value, list | dict) and user in str(value))
