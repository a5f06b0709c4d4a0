"""Engine health: does the engine keep up, and what does it throw out? For whoever keeps it running."""

from __future__ import annotations

from typing import Final

from grafana.model import Board, Panel, Row, Text, Variable
from grafana.palette import OUTCOMES, PURPLE, VERMILION, rising
from grafana.parts import MINUTES_IN, as_of, by_step, plain, stat

_STEP: Final = by_step("minute")
_LEDGER: Final = "FROM ingest_ledger WHERE $__timeFilter(minute) AND topic IN (${stream:singlequote})"

_FIRST: Final = Row(
    Text("Does it keep up?", "引擎跟得上吗?"),
    (
        stat(
            Text("Messages a second", "每秒消息数"),
            Text("Messages read in the last full minute of ingestion", "上一完整分钟读取的消息速率"),
            "SELECT argMin(rate, minute) AS rate FROM (SELECT minute, sum(consumed) / 60 AS rate "
            f"{_LEDGER} GROUP BY minute ORDER BY minute DESC LIMIT 2) HAVING count() > 0",
            unit="eps",
        ),
        stat(
            Text("Watermark lag", "水位线延迟"),
            Text("Greatest event time seen less the watermark: the out-of-orderness (5 min) and some seconds", "最大事件时间与水位线之差:约为乱序容忍时间(5 分钟)加数秒"),
            "SELECT dateDiff('second', watermark, last_event_time) AS seconds FROM engine_progress "
            "ORDER BY as_of DESC LIMIT 1",
            unit="s",
            thresholds=rising(420, 900),
        ),
        stat(
            Text("Late", "迟到占比"),
            Text("Share of messages that came too late to count", "因迟到未计入的消息占比"),
            f"SELECT sum(late) / nullIf(sum(consumed), 0) AS share {_LEDGER}",
            unit="percentunit",
            decimals=2,
            thresholds=rising(0.01, 0.05),
        ),
        stat(
            Text("Duplicates", "重复占比"),
            Text("Share of messages whose event id was there before", "事件 ID 重复的消息占比"),
            f"SELECT sum(duplicate) / nullIf(sum(consumed), 0) AS share {_LEDGER}",
            unit="percentunit",
            decimals=2,
            thresholds=rising(0.05, 0.2),
        ),
        stat(
            Text("Rejected", "拒收占比"),
            Text("Share of messages that break the contract", "不符合契约的消息占比"),
            f"SELECT sum(rejected) / nullIf(sum(consumed), 0) AS share {_LEDGER}",
            unit="percentunit",
            decimals=2,
            thresholds=rising(0.01, 0.05),
        ),
        as_of(),
    ),
)  # fmt: skip

_FLOW: Final = Row(
    Text("What became of every message?", "每条消息的去向?"),
    (
        Panel(
            "timeseries",
            Text("Messages by outcome", "按结果的消息数"),
            Text("Per minute of ingestion; the outcomes add up to what was read", "按摄取分钟;各结果之和等于读取数"),
            f"SELECT {_STEP} AS time, "
            + ", ".join(f"sum({name}) / {MINUTES_IN} AS {name}" for name in OUTCOMES)
            + f" {_LEDGER} GROUP BY time ORDER BY time",
            unit="cpm",
            colours=OUTCOMES,
            stacked=True,
        ),
        Panel(
            "timeseries",
            Text("Messages by topic", "按主题的消息数"),
            Text("Messages read per minute of ingestion and topic", "每分钟每主题读取的消息数"),
            f"SELECT {_STEP} AS time, topic, sum(consumed) / {MINUTES_IN} AS consumed {_LEDGER} "
            "GROUP BY time, topic ORDER BY time, topic",
            unit="cpm",
            rows_max=20_000,
        ),
    ),
)

_WRONG: Final = Row(
    Text("What is wrong with the rejected ones?", "被拒收的消息有什么问题?"),
    (
        Panel(
            "barchart",
            Text("Rejected by reason", "拒收原因"),
            Text("Messages in dead_letters by their stable reason code", "dead_letters 中各原因代码的消息数"),
            "SELECT reason, count() AS messages FROM dead_letters WHERE $__timeFilter(ingest_time) "
            "AND topic IN (${stream:singlequote}) GROUP BY reason ORDER BY messages DESC, reason LIMIT 15",
            width=9,
            rows_max=15,
            colours={"messages": VERMILION},
        ),
        Panel(
            "table",
            Text("Last rejected messages", "最近被拒收的消息"),
            Text("Where they are and what is wrong, the newest first", "位置与问题,最新的在前"),
            "SELECT ingest_time, topic, partition, `offset`, reason, detail FROM dead_letters "
            "WHERE $__timeFilter(ingest_time) AND topic IN (${stream:singlequote}) "
            "ORDER BY ingest_time DESC, topic, partition, `offset` DESC LIMIT 20",
            width=15,
            rows_max=20,
            columns={
                "ingest_time": plain("Read at", "读取时间", "dateTimeAsIso"),
                "topic": plain("Topic", "主题"),
                "partition": plain("Partition", "分区"),
                "offset": plain("Offset", "偏移"),
                "reason": plain("Reason", "原因"),
                "detail": plain("Detail", "详情"),
            },
        ),
    ),
)

_PROCESS: Final = Row(
    Text("Is the process healthy? (Prometheus)", "进程健康吗?(Prometheus)"),
    (
        Panel(
            "timeseries",
            Text("Messages behind Kafka", "Kafka 积压"),
            Text("Messages between what was read and the ends of the partitions", "已读取位置与分区末尾之间的消息数"),
            expr="sum by (instance) (livepulse_lag_messages)",
            legend=Text("{{instance}}", "{{instance}}"),
            width=8,
        ),
        Panel(
            "timeseries",
            Text("Behind the clock", "落后时钟"),
            Text("How far the watermark is behind the clock: the out-of-orderness (5 min) and some seconds", "水位线落后当前时间:约为乱序容忍时间(5 分钟)加数秒"),
            expr="max by (instance) (livepulse_watermark_delay_seconds)",
            legend=Text("{{instance}}", "{{instance}}"),
            unit="s",
            width=8,
        ),
        Panel(
            "timeseries",
            Text("Time between commits", "提交间隔"),
            Text("99th percentile of the time from one commit of offsets and state to the next", "两次提交(偏移与状态)之间耗时的 99 分位"),
            expr="histogram_quantile(0.99, sum by (le) (rate(livepulse_epoch_seconds_bucket[$__rate_interval])))",
            legend=Text("p99", "p99"),
            unit="s",
            width=8,
            colours={"p99": PURPLE},
        ),
        Panel(
            "timeseries",
            Text("Time of an insert", "写入耗时"),
            Text("99th percentile by table, repetitions included", "各表写入耗时的 99 分位,含重试"),
            expr="histogram_quantile(0.99, sum by (le, table) (rate(livepulse_sink_seconds_bucket[$__rate_interval])))",
            legend=Text("{{table}}", "{{table}}"),
            unit="s",
            width=8,
        ),
        Panel(
            "timeseries",
            Text("Repeated calls of the store", "存储重试"),
            Text("Calls a second that had to be repeated; more than none for minutes: the store is in trouble", "每秒重试次数;持续大于零说明存储异常"),
            expr="sum(rate(livepulse_sink_retries_total[$__rate_interval]))",
            legend=Text("retries", "重试"),
            unit="cps",
            width=8,
            colours={"retries": VERMILION, "重试": VERMILION},
        ),
        Panel(
            "timeseries",
            Text("Audit mismatches", "对账差异"),
            Text("Figures that differ from their recomputation, within an hour; any is a fault", "一小时内与重算结果不一致的数值个数;大于零即为故障"),
            expr="sum by (view) (increase(livepulse_audit_mismatch_total[1h]))",
            legend=Text("{{view}}", "{{view}}"),
            width=8,
        ),
        Panel(
            "timeseries",
            Text("State for recovery", "恢复状态大小"),
            Text("Size of the recovery files of shards and families", "各分片与指标族恢复文件的大小"),
            expr="sum by (instance) (livepulse_state_bytes)",
            legend=Text("{{instance}}", "{{instance}}"),
            unit="bytes",
        ),
        Panel(
            "timeseries",
            Text("Parts of tables", "表分区片段数"),
            Text("Active parts: inserts slow down at 1,000 and fail at 3,000", "活跃片段数:达到 1000 时写入变慢,3000 时失败"),
            expr="topk(8, max by (table) (livepulse_parts))",
            legend=Text("{{table}}", "{{table}}"),
        ),
    ),
)  # fmt: skip

ENGINE_HEALTH: Final = Board(
    "livepulse-engine",
    Text("Engine health", "引擎健康"),
    Text("Rate, lag, watermark, late, duplicates, rejects", "速率、延迟、水位线、迟到、重复、拒收"),
    (_FIRST, _FLOW, _WRONG, _PROCESS),
    (
        Variable(
            "stream",
            Text("Topic", "主题"),
            "SELECT topic FROM ingest_ledger GROUP BY topic ORDER BY sum(consumed) DESC, topic LIMIT 50",
            many=True,
        ),
    ),
    refresh="30s",
    range_from="now-1h",
    clock="ingest",
)
