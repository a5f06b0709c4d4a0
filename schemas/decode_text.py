"""Messages as one array of bytes, which compiled code reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.decode_columns import Mask
from schemas.decode_compile import Bytes
from schemas.decode_rules import Int64s

PADDING: Final = b"\n" * 32
"""Behind the last message: what compiled code may read there."""


@dataclass(frozen=True, slots=True)
class Texts:
    """n texts: the i-th is `text[starts[i] : ends[i]]`, with an end of line behind it; null where not `present[i]`."""

    text: Bytes
    starts: Int64s
    ends: Int64s
    present: Mask

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> Texts:
        """These values in one array."""
        joined = b"\n".join([*(value or b"" for value in values), PADDING])
        sizes = np.fromiter((len(value or b"") for value in values), dtype=np.int64, count=len(values))
        ends = np.cumsum(sizes + 1) - 1
        present = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
        return cls(np.frombuffer(joined, dtype=np.uint8), ends - sizes, ends, present)

    def rows(self, cut: slice) -> Texts:
        """Some of the texts, in the same array."""
        return Texts(self.text, self.starts[cut], self.ends[cut], self.present[cut])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes | None:
        return self.text[self.starts[row] : self.ends[row]].tobytes() if self.present[row] else None
