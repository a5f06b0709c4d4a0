"""What the read-only endpoint lets through: one statement that reads this store and nothing else.

`readonly = 1` alone is not enough in chDB: it still writes files by `INTO OUTFILE` and reads them by the scalar
function `file`. So ClickHouse's own parser is asked what a text is (class, number of statements, syntax tree), the tree
is held against allow-lists, and `readonly = 1` is set beneath as a second wall (it refuses every `SETTINGS` clause and
every table function that leaves the process). A text that the parser does not understand is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sinks.chdb_session import Classified, ClickHouseError

MAX_QUERY_BYTES: Final = 256 * 1024

TABLE_FUNCTIONS: Final = frozenset(
    {
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "generateseries",
        "generate_series",
        "values",
        "null",
        "primes",
        "view",
    }
)
"""Table functions that read nothing but their literal arguments or a subquery (lower case)."""

DENIED_FUNCTIONS: Final = frozenset(
    {
        "file", "catboostevaluate", "sleep", "sleepeachrow", "logtrace", "getclienthttpheader", "currentrequesturl",
        "addresstoline", "addresstolinewithinlines", "addresstosymbol", "getserversetting", "getserverport",
        "zookeepersessionuptime", "aiclassify", "aiembed", "aiextract", "aifilter", "aigenerate", "airedact",
        "aisimilarity", "aitranslate",
    }
)  # fmt: skip
"""Scalar functions that read files, reach the network, stall a thread or tell of the machine (lower case)."""

_ROOT: Final = re.compile(r"(SelectWithUnionQuery|SelectIntersectExceptQuery|Explain\b|Show\w*|Describe\w*|Exists\w*)")
_FUNCTION: Final = re.compile(r" *Function (\S+)")
_STRING: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_APPLIED: Final = re.compile(r"\bAPPLY ?\(?`?(\w+)", re.IGNORECASE)
_CALLED: Final = re.compile(r"(?<!\w)(\w++)`?\(")  # a word at once: from each letter on, a long one takes long
_WORD: Final = re.compile(r"\w+")
_TABLE_EXPRESSION: Final = re.compile(r" *TableExpression\b")


class Parser(Protocol):
    """ClickHouse's parser (`sinks.chdb_session.Handle` is one)."""

    def classify(self, sql: str) -> Classified:
        """Class and number of the statements."""

    def syntax_tree(self, sql: str, params: Mapping[str, str] | None = None) -> list[str]:
        """Lines of `EXPLAIN AST`."""

    def canonical(self, sql: str) -> str:
        """The text as ClickHouse writes it, without comments."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one read. A caller's own settings can lower them and not lift them."""

    max_execution_seconds: int = 30
    max_memory_bytes: int = 1 << 30
    max_result_rows: int = 20_000_000
    max_result_bytes: int = 4 << 30
    max_threads: int = 4

    def settings(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Session settings of a read: those of `wanted` that a reader may choose, the caps, and `readonly` last.

        Errors: `ClickHouseError` READONLY for a setting that readers may not choose.
        """
        caps = {
            "max_execution_time": self.max_execution_seconds,
            "max_memory_usage": self.max_memory_bytes,
            "max_result_rows": self.max_result_rows,
            "max_result_bytes": self.max_result_bytes,
            "max_threads": self.max_threads,
        }
        chosen = {name: str(cap) for name, cap in caps.items()}
        for name, value in wanted.items():
            if name in caps:
                chosen[name] = _lower(value, caps[name])
            elif name in _CHOSEN_BY_READERS or (name.startswith("output_format_") and name not in _LEAVE_THE_ANSWER):
                chosen[name] = value
            elif name not in _OVERRULED:
                raise _refused(f"setting {name!r} cannot be changed on the read-only endpoint", 164, "READONLY")
        return {**chosen, **_FIXED}


_FIXED: Final = {
    "result_overflow_mode": "throw",
    "timeout_overflow_mode": "throw",
    "allow_introspection_functions": "0",
    "allow_ddl": "0",
    "max_parser_depth": "300",
    "max_ast_elements": "20000",
    "max_expanded_ast_elements": "200000",
    "max_rows_to_group_by": "20000000",
    "readonly": "1",
}
_CHOSEN_BY_READERS: Final = frozenset(
    {"date_time_output_format", "session_timezone", "join_use_nulls", "max_block_size", "extremes", "use_query_cache",
     "wait_end_of_query", "cancel_http_readonly_queries_on_client_close", "date_time_input_format", "final"}
)  # fmt: skip
_LEAVE_THE_ANSWER: Final = frozenset(
    {"output_format_schema", "output_format_avro_confluent_subject", "output_format_image_terminal_mode"}
)
"""Settings of formats that write somewhere else: `output_format_schema` names a file, which Protobuf overwrites."""
_OVERRULED: Final = frozenset({*_FIXED, "async_insert", "wait_for_async_insert"})
"""Settings that clients send by habit: taken in silence, without effect."""


def check(sql: str, parser: Parser, params: Mapping[str, str], table_functions: frozenset[str]) -> None:
    """Let `sql` pass or raise.

    `table_functions`: lower-case names of every table function that this ClickHouse has and that is no scalar function
    as well; none of them may stand where a value is expected (`x IN remote(…)`).
    Errors: `ClickHouseError` with ACCESS_DENIED for what is understood and refused, else SYNTAX_ERROR and the like.
    """
    if len(sql.encode(errors="surrogatepass")) > MAX_QUERY_BYTES:
        raise _refused(f"a query may have {MAX_QUERY_BYTES} bytes", 164, "QUERY_IS_TOO_LARGE")
    if "\x00" in sql:
        raise _refused("a query may not contain a NUL byte", 62, "SYNTAX_ERROR")
    found = parser.classify(sql)
    if found.kind == "UNKNOWN" or found.statements == 0:
        parser.canonical(sql)  # raises ClickHouse's own syntax error
        raise _refused("the statement is not understood", 62, "SYNTAX_ERROR")
    if found.statements != 1:
        raise _refused("one statement at a time")
    if found.kind != "READ_ONLY":
        raise _refused("the endpoint is read-only: SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS, without INTO OUTFILE")
    check_tree(parser.syntax_tree(sql, params), table_functions)
    check_calls(parser.canonical(sql), table_functions)


def check_tree(tree: Sequence[str], table_functions: frozenset[str]) -> None:
    """Hold the lines of `EXPLAIN AST` against the allow-lists."""
    _check_root(tree)
    before = ""
    for line in tree:
        if line.strip() == "Set":
            raise _refused("SETTINGS cannot be changed on the read-only endpoint", 164, "READONLY")
        function = _FUNCTION.match(line)
        if function is None:
            before = line
            continue
        name = function.group(1)
        if _TABLE_EXPRESSION.match(before):
            if name.lower() not in TABLE_FUNCTIONS:
                raise _refused(f"table function {name} is not for the read-only endpoint")
        else:
            check_function(name, table_functions)
        before = line


def check_calls(canonical: str, table_functions: frozenset[str]) -> None:
    """Every name in ClickHouse's own rendering: the tree leaves out some places (`APPLY`, `SHOW … WHERE`)."""
    bare = _STRING.sub("''", canonical)
    for name in _WORD.findall(bare):  # a function may be passed by its name: arrayMap(file, …)
        if name.lower() in DENIED_FUNCTIONS:
            raise _refused(f"the name {name} is not for the read-only endpoint")
    for name in _APPLIED.findall(bare) + _CALLED.findall(bare):
        check_function(name, table_functions)


def check_function(name: str, table_functions: frozenset[str]) -> None:
    """A function that stands where a value is expected."""
    last = name.rsplit(".", 1)[-1].lower()
    if last in DENIED_FUNCTIONS or last in table_functions - TABLE_FUNCTIONS:
        raise _refused(f"function {name} is not for the read-only endpoint")


def _check_root(tree: Sequence[str]) -> None:
    """Only statements that read; `EXPLAIN` may explain only such."""
    if not tree or not _ROOT.match(tree[0]):
        raise _refused("only SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS")
    if tree[0].startswith("Explain"):
        inner = [line[1:] for line in tree[1:] if line.startswith(" ") and not line.startswith("  ")]
        if not any(_ROOT.match(line) for line in inner):
            raise _refused("only statements that read can be explained")


def _lower(value: str, cap: int) -> str:
    """The smaller of a cap and what a client asked for; 0 means "no limit" to ClickHouse, so it means the cap."""
    try:
        wanted = int(float(value))
    except (ValueError, OverflowError):
        return str(cap)
    return str(min(wanted, cap)) if wanted > 0 else str(cap)


def _refused(why: str, code: int = 497, name: str = "ACCESS_DENIED") -> ClickHouseError:
    return ClickHouseError.because(why, code, name)
