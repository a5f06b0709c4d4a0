"""What readers may ask: the guard over ClickHouse's own parser. One engine serves the file: a process may open one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sinks.chdb_session import ClickHouseError, Database, Handle
from sinks.sql_guard import Caps, check


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("guard"))
    with database.handle() as handle:
        handle.run("CREATE DATABASE livepulse")
        handle.run("CREATE TABLE livepulse.t (a UInt8, b String) ENGINE = MergeTree ORDER BY a")
        handle.run("INSERT INTO livepulse.t VALUES (1, 'x')")
    yield database
    assert database.close()


@pytest.fixture(scope="module")
def table_functions(engine: Database) -> frozenset[str]:
    with engine.handle() as handle:
        names = handle.run(
            "SELECT lower(name) FROM system.table_functions"
            " WHERE lower(name) NOT IN (SELECT lower(name) FROM system.functions)"
        ).body.decode()
    return frozenset(names.split())


@pytest.fixture
def reader(engine: Database) -> Iterator[Handle]:
    with engine.handle() as handle:
        handle.use("livepulse")
        handle.set(Caps().settings({}))
        yield handle


ALLOWED = [
    "SELECT 1",
    "SELECT 1;",
    "  -- a comment\n SELECT /* and ; another */ 1",
    "(SELECT 1)",
    "WITH 2 AS x SELECT x",
    "WITH x AS (SELECT a FROM t) SELECT * FROM x",
    "FROM t SELECT a",
    "SELECT 1 UNION ALL SELECT 2",
    "SELECT 1 INTERSECT SELECT 1",
    "SELECT * FROM t FORMAT JSONEachRow",
    "SELECT ';', 'INTO OUTFILE', 'file(', \"b\" AS `url` FROM t WHERE b = 'remote('",
    "SELECT n.number FROM numbers(3) AS n CROSS JOIN generateSeries(1, 2) AS z",
    "SELECT * FROM VALUES('a UInt8', 1, 2)",
    "SELECT * FROM view(SELECT a FROM t)",
    "SELECT format('{}', 1), arrayMap(x -> x + 1, [1]), sum(a) OVER () FROM t",
    "SELECT COLUMNS('a') APPLY(sum) FROM t",
    "SELECT $$file('x')$$",
    "SELECT name FROM system.settings LIMIT 1",
    "SHOW TABLES",
    "SHOW CREATE TABLE t",
    "SHOW COLUMNS FROM t",
    "DESCRIBE TABLE t",
    "DESCRIBE (SELECT a FROM t)",
    "EXISTS TABLE t",
    "EXPLAIN SELECT a FROM t",
    "EXPLAIN PIPELINE SELECT a FROM t",
]

REFUSED = [
    # not one statement that reads
    "",
    "--",
    "/* SELECT 1",
    "SELEC 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE t",
    "SELECT 1 PARALLEL WITH DROP TABLE t",
    "INSERT INTO t VALUES (2, 'y')",
    "INSERT INTO FUNCTION file('x.csv') SELECT 1",
    "CREATE TABLE u (a UInt8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE u (a UInt8)",
    "CREATE FUNCTION f AS x -> x",
    "ALTER TABLE t DELETE WHERE 1",
    "DROP TABLE t",
    "TRUNCATE TABLE t",
    "OPTIMIZE TABLE t",
    "RENAME TABLE t TO u",
    "ATTACH TABLE t",
    "DETACH TABLE t",
    "SYSTEM SHUTDOWN",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "USE system",
    "SET readonly = 0",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE t TO File('x')",
    "CHECK TABLE t",
    "BEGIN TRANSACTION",
    "EXPLAIN CREATE TABLE u (a UInt8) ENGINE = Memory",
    "EXPLAIN TABLE OVERRIDE mysql('a', 'b') PARTITION BY x",
    # files
    "SELECT 1 INTO OUTFILE '/tmp/x'",
    "SELECT 1 INTO/**/OUTFILE '/tmp/x' FORMAT CSV",
    "EXPLAIN SELECT 1 INTO OUTFILE '/tmp/x'",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM FILE('/etc/passwd')",
    "SELECT * FROM `file`('/etc/passwd')",
    "SELECT * FROM \"file\"('/etc/passwd')",
    "SELECT * FROM/**/file/**/('/etc/passwd')",
    "SELECT file('/etc/passwd')",
    "SELECT `f\\x69le`('/etc/passwd')",
    "SELECT 1 IN file('/etc/passwd')",
    "SELECT a IN (SELECT * FROM file('x')) FROM t",
    "SELECT * FROM view(SELECT * FROM file('x'))",
    "SELECT * FROM loop(file('x'))",
    "SELECT * APPLY(x -> file(x)) FROM t",
    "SELECT * APPLY(file) FROM t",
    "SELECT COLUMNS('b') APPLY `file` FROM t",
    "SELECT * REPLACE(file(b) AS b) FROM t",
    "SELECT arrayMap(x -> file(x), ['a'])",
    "SELECT arrayMap(file, ['/etc/passwd'])",
    "SELECT * APPLY(x -> arrayMap(file, [x])) FROM t",
    "SELECT quantile(file('x'))(a) FROM t",
    "SELECT a FROM t ORDER BY a WITH FILL INTERPOLATE (b AS file('x'))",
    "SELECT 1 LIMIT file('x')",
    "SELECT sum(a) OVER (ORDER BY file('x')) FROM t",
    "SELECT $$'$$, file('x'), $$'$$",
    "SELECT 'a\\'', file('b'), '\\''",
    "SHOW TABLES WHERE name = file('x')",
    "SHOW COLUMNS FROM t WHERE file('x') = ''",
    "DESCRIBE TABLE file('x')",
    "EXPLAIN SELECT file('x')",
    # the network, other engines, code
    "SELECT * FROM url('http://127.0.0.1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1/')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM mysql('h', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('h', 'd', 't', 'u', 'p')",
    "SELECT * FROM sqlite('x', 'y')",
    "SELECT * FROM jdbc('x', 'y')",
    "SELECT * FROM odbc('x', 'y')",
    "SELECT * FROM hdfs('x')",
    "SELECT * FROM redis('x', 'k', 'k String')",
    "SELECT * FROM mongodb('x', 'd', 'c', 'u', 'p', 'a Int8')",
    "SELECT * FROM executable('x.sh', 'TSV', 'a String')",
    "SELECT * FROM python('x')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM dictionary('x')",
    "SELECT * FROM input('a String')",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM filesystem('/')",
    "SELECT aiGenerate('x')",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM numbers(100)",
    "SELECT no_such_table_function FROM no_such_table_function(1)",
    # limits
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
    "SELECT * FROM t WHERE a IN (SELECT 1 SETTINGS readonly = 0)",
    "WITH x AS (SELECT 1 SETTINGS max_execution_time = 0) SELECT * FROM x",
    "DESCRIBE (SELECT 1 SETTINGS readonly = 0)",
    "SELECT 1 UNION ALL (SELECT 2 SETTINGS readonly = 0)",
    "EXPLAIN SELECT * FROM (SELECT 1 SETTINGS readonly = 0)",
    "SELECT * FROM view(SELECT 1 SETTINGS readonly = 0)",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
    "SELECT " + "1, " * 100_000 + "1",
    "SELECT " + "(" * 500 + "1" + ")" * 500,
    "SELECT 1\x00; DROP TABLE t",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_reads_this_store_passes_and_runs(sql: str, reader: Handle, table_functions: frozenset[str]) -> None:
    check(sql, reader, {}, table_functions)
    reader.run(sql)


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:60])
def test_anything_else_is_refused(sql: str, reader: Handle, table_functions: frozenset[str]) -> None:
    with pytest.raises(ClickHouseError) as refused:
        check(sql, reader, {}, table_functions)
    assert refused.value.code != 0
    assert refused.value.name


def test_values_of_parameters_are_no_sql(reader: Handle, table_functions: frozenset[str]) -> None:
    params = {"b": "x'; DROP TABLE t --"}
    sql = "SELECT count() FROM t WHERE b = {b:String}"
    check(sql, reader, params, table_functions)
    assert reader.run(sql, params=params).body == b"0\n"


def test_the_second_wall_stands_without_the_guard(reader: Handle) -> None:
    for sql in ("SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "INSERT INTO t VALUES (2, 'y')"):
        with pytest.raises(ClickHouseError) as refused:
            reader.run(sql)
        assert refused.value.name == "READONLY"


def test_caps_can_be_lowered_and_not_lifted() -> None:
    caps = Caps(max_execution_seconds=30, max_result_rows=1000)
    assert caps.settings({"max_execution_time": "5"})["max_execution_time"] == "5"
    for lifted in ("60", "0", "-1", "inf", "x", "1e300"):
        assert caps.settings({"max_execution_time": lifted})["max_execution_time"] == "30"
    assert caps.settings({"max_result_rows": "10"})["max_result_rows"] == "10"
    assert caps.settings({"readonly": "0", "allow_ddl": "1"})["readonly"] == "1"
    assert list(caps.settings({}))[-1] == "readonly"  # what comes after it could not be set any more
    with pytest.raises(ClickHouseError, match="cannot be changed"):
        caps.settings({"max_memory_usage_for_user": "1"})


def test_a_read_beyond_its_caps_is_stopped(engine: Database) -> None:
    with engine.handle() as handle:
        handle.set(Caps(max_execution_seconds=1, max_result_rows=10, max_memory_bytes=50 << 20).settings({}))
        for sql, name in (
            ("SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(number)", "TIMEOUT_EXCEEDED"),
            ("SELECT number FROM numbers(1000)", "TOO_MANY_ROWS_OR_BYTES"),
            ("SELECT length(groupArray(number)) FROM numbers(100000000)", "MEMORY_LIMIT_EXCEEDED"),
        ):
            with pytest.raises(ClickHouseError) as stopped:
                handle.run(sql)
            assert stopped.value.name == name
