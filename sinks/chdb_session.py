"""chDB (ClickHouse inside this process) behind a small, typed surface: one directory, one handle a request.

chDB allows one engine directory a process and any number of handles to it. `SET`, `USE` and an open stream belong to a
handle, and a handle serialises its calls, so each request opens its own (0.2 ms) and closes it: nothing leaks from one
request to the next, and reads run beside writes.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlencode

_RTLD_DEEPBIND: Final = 0x00008
_CODE: Final = re.compile(r"Code: (\d+)\. ")
_NAME: Final = re.compile(r"\(([A-Z][A-Z0-9_]+)\)\s*$")
_VERSION: Final = re.compile(r" \(version [^)]*\)\.(?= \()")
_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

LEAN_SERVER: Final[Mapping[str, str]] = {
    "max_server_memory_usage": str(2 << 30),
    "mark_cache_size": str(64 << 20),
    "primary_index_cache_size": str(64 << 20),
    "index_mark_cache_size": str(8 << 20),
    "query_condition_cache_size": str(8 << 20),
    "compiled_expression_cache_size": str(8 << 20),
    "background_pool_size": "1",
    "background_schedule_pool_size": "1",
    "max_threads_min_free_memory_per_thread": str(64 << 20),  # of 1 GiB each, as it is by default, there is but one
}
"""Settings of the embedded store: an engine shares this machine's memory and cores."""


class ClickHouseError(Exception):
    """A statement failed. `code`, `name`: ClickHouse's (`src/Common/ErrorCodes.cpp`), 0 and "" when it gave none."""

    def __init__(self, message: str, code: int = 0, name: str = "") -> None:
        super().__init__(message)
        self.message, self.code, self.name = message, code, name

    @classmethod
    def because(cls, why: str, code: int, name: str) -> ClickHouseError:
        """An error of our own, worded as ClickHouse words its own."""
        return cls(f"Code: {code}. DB::Exception: {why}. ({name})", code, name)

    @classmethod
    def of(cls, text: str) -> ClickHouseError:
        """From chDB's message, which repeats `Code: N. DB::Exception:` once a layer."""
        starts = [found.start() for found in _CODE.finditer(text)]
        if not starts:
            return cls(text.strip())
        message = _VERSION.sub("", text[starts[-1] :].strip())
        found, named = _CODE.match(message), _NAME.search(message)
        while named and message[: named.start()].rstrip(". ").endswith(named.group(0)):  # "(READONLY). (READONLY)"
            message = message[: named.start()].rstrip(". ")
            named = _NAME.search(message)
        return cls(message, int(found.group(1)) if found else 0, named.group(1) if named else "")


class StoreLockedError(Exception):
    """Another process has the store's directory open."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave: `body` in the wanted format, and counts as `X-ClickHouse-Summary` reports them."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0


@dataclass(frozen=True, slots=True)
class Classified:
    """What ClickHouse's own parser says of a text. `kind`: READ_ONLY, MUTATING, MUTATING_GLOBAL, CONTROL or UNKNOWN."""

    kind: str
    statements: int


def load_chdb() -> ModuleType:
    """The extension module of chDB without its package.

    `import chdb` also imports pyarrow and NumPy and runs a query, which costs 0.7 s and 50 MB that a store process has
    no use for. Falls back to the package where the layout is another.
    """
    if "chdb" in sys.modules:
        return importlib.import_module("chdb._chdb")
    package = importlib.util.find_spec("chdb")
    roots = list(package.submodule_search_locations or ()) if package else []
    library = next((path for root in roots for path in Path(root).glob("_chdb*.so")), None)
    if library is None:
        return importlib.import_module("chdb._chdb")
    if sys.platform == "linux":  # as chdb/__init__.py does: new/delete of the library must resolve to its own jemalloc
        ctypes.CDLL(str(library), mode=sys.getdlopenflags() | _RTLD_DEEPBIND)
    spec = importlib.util.spec_from_file_location("chdb._chdb", library)
    if spec is None or spec.loader is None:
        return importlib.import_module("chdb._chdb")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Handle:
    """One connection to the engine, for one request. Not for use by several threads at a time."""

    def __init__(self, raw: Any) -> None:  # noqa: ANN401  # chDB ships no types
        self._raw = raw

    def set(self, settings: Mapping[str, str]) -> None:
        """Apply session settings. Errors: `ClickHouseError` for an unknown, malformed or read-only one."""
        for name in settings:
            if not _SETTING.fullmatch(name):
                raise ClickHouseError.because(f"Unknown setting {name!r}", 115, "UNKNOWN_SETTING")
        if settings:
            self.run("SET " + ", ".join(f"{name} = {quote_string(value)}" for name, value in settings.items()))

    def use(self, database: str) -> None:
        """Names without a database are looked up in `database` from here on."""
        self.run(f"USE {quote_name(database)}")

    def run(self, sql: str | bytes, fmt: str = "TabSeparated", params: Mapping[str, str] | None = None) -> Result:
        """Run one statement; the whole result is in memory. A `FORMAT` clause in `sql` beats `fmt`."""
        try:
            raw = self._raw.query(sql, fmt, params=dict(params or {}))
        except RuntimeError as error:
            raise ClickHouseError.of(str(error)) from None
        return _result(raw, raw.bytes() if raw.size() else b"")

    def stream(self, sql: str, fmt: str, params: Mapping[str, str] | None = None) -> Generator[bytes, None, None]:
        """Run one statement and give its result block by block.

        Each block is encoded by itself, so this is for formats with neither header nor footer only (`STREAMABLE`).
        Nothing else may run on this handle until it is exhausted or closed, closing the handle included.
        """
        opened = None
        try:
            opened = self._raw.send_query(sql, fmt, params=dict(params or {}))
            while True:
                block = self._raw.streaming_fetch_result(opened)
                if block is None or (block.rows_read() == 0 and block.size() == 0):
                    break
                if block.size():
                    yield block.bytes()
        except RuntimeError as error:
            opened = None
            raise ClickHouseError.of(str(error)) from None
        finally:
            if opened is not None:
                self._raw.streaming_cancel_query(opened)

    def insert(self, statement: str, fmt: str, rows: bytes) -> Result:
        """Insert `rows`, encoded in `fmt`, by `statement` (`INSERT INTO t (a, b)`, without FORMAT and data).

        From a file in memory and not by chDB's own insert calls: those acknowledge rows that could not be written when
        the disk is full.
        """
        if not rows:
            return Result(b"")
        with _in_memory(rows) as path:
            return self.run(f"{statement} FROM INFILE {quote_string(path)} COMPRESSION 'none' FORMAT {fmt}")

    def classify(self, sql: str) -> Classified:
        """How ClickHouse's parser sees `sql`; nothing is run and no table looked up."""
        try:
            found = self._raw.classify_query(sql, "default")
        except (RuntimeError, ValueError) as error:
            raise ClickHouseError.of(str(error)) from None
        return Classified(str(found["query_class"].name), int(found["statement_count"]))

    def syntax_tree(self, sql: str, params: Mapping[str, str] | None = None) -> list[str]:
        """Lines of `EXPLAIN AST`: one node a line, indented by its depth; nothing is run and no table looked up."""
        body = self.run("EXPLAIN AST " + sql, "TabSeparatedRaw", params).body
        return body.decode(errors="replace").splitlines()

    def canonical(self, sql: str) -> str:
        """`sql` as ClickHouse writes it: one line, no comments, names quoted only where they must be."""
        body = self.run(f"SELECT formatQuerySingleLine({quote_string(sql)})", "TabSeparatedRaw").body
        return body.decode(errors="replace")

    def close(self) -> None:
        """Let go of the connection."""
        self._raw.close()


@contextmanager
def _in_memory(blob: bytes) -> Iterator[str]:
    """A path at which this process can read `blob`: of no disk where the system has such files (Linux)."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile(prefix="livepulse-rows-") as file:
            file.write(blob)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("livepulse-rows")
    try:
        view = memoryview(blob)
        while view:
            view = view[os.write(descriptor, view) :]
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


STREAMABLE: Final = frozenset(
    {"Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "RowBinary", "JSONEachRow"}
)
"""Formats of which blocks that were encoded one by one may be joined."""


class Database:
    """The engine of one directory, from open to close. Use from any thread."""

    def __init__(self, path: Path, server: Mapping[str, str] = LEAN_SERVER) -> None:
        self._chdb = load_chdb()
        self._connection = f"{path.resolve()}?{urlencode(dict(server))}"
        self._idle = threading.Condition()
        self._open = 0
        self._closing = False
        try:
            self._keeper = self._chdb.connect(self._connection)  # keeps the engine up between requests
        except RuntimeError as error:
            raise ClickHouseError.of(str(error)) from None

    @contextmanager
    def handle(self) -> Iterator[Handle]:
        """A fresh handle. Errors: `ClickHouseError` once `close` has begun."""
        with self._idle:
            if self._closing:
                raise ClickHouseError.because("The store is shutting down", 236, "ABORTED")
            self._open += 1
        try:
            handle = Handle(self._chdb.connect(self._connection))
            try:
                yield handle
            finally:
                handle.close()
        finally:
            with self._idle:
                self._open -= 1
                self._idle.notify_all()

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """Refuse new handles, wait for those that are open, close the engine.

        False when some were still at work: then the engine stays open, because closing it under a running query crashes
        the process.
        """
        with self._idle:
            self._closing = True
            if not self._idle.wait_for(lambda: self._open == 0, timeout_seconds):
                return False
        self._keeper.close()
        return True


def quote_string(text: str) -> str:
    """`text` as a ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(text: str) -> str:
    """`text` as a ClickHouse identifier."""
    return "`" + text.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _result(raw: Any, body: bytes) -> Result:  # noqa: ANN401  # chDB ships no types
    return Result(
        body=body,
        read_rows=int(raw.rows_read()),
        read_bytes=int(raw.bytes_read()),
        written_rows=int(raw.rows_written()),
        written_bytes=int(raw.bytes_written()),
        elapsed_ns=int(raw.elapsed() * 1e9),
    )
