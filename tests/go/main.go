// Asks the read-only endpoint as the Grafana plugin does: clickhouse-go over HTTP. Prints what it read, a line each.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/shopspring/decimal"
)

const query = `SELECT number AS n, toLowCardinality(concat('v', toString(number % 3))) AS low,
	toDecimal64(number, 2) / 4 AS money, toDateTime('2026-02-01 00:00:00', 'UTC') + number AS at,
	if(number % 2 = 0, NULL, toFloat64(number)) AS maybe, [toString(number), 'x'] AS list
	FROM numbers(200000) ORDER BY n`

func main() {
	method := clickhouse.CompressionNone
	switch os.Getenv("COMPRESS") {
	case "gzip":
		method = clickhouse.CompressionGZIP
	case "lz4":
		method = clickhouse.CompressionLZ4
	}
	connection, err := clickhouse.Open(&clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{os.Args[1]},
		Auth:        clickhouse.Auth{Database: "livepulse", Username: os.Getenv("READER"), Password: os.Getenv("READER_PASSWORD")},
		Compression: &clickhouse.Compression{Method: method},
		Settings:    clickhouse.Settings{"max_execution_time": 30},
		DialTimeout: 10 * time.Second,
	})
	fail(err)
	context := context.Background()
	fail(connection.Ping(context))
	rows, err := connection.Query(context, query)
	fail(err)
	count, sum := 0, 0.0
	for rows.Next() {
		var n uint64
		var low string
		var money decimal.Decimal
		var at time.Time
		var maybe *float64
		var list []string
		fail(rows.Scan(&n, &low, &money, &at, &maybe, &list))
		if maybe != nil {
			sum += *maybe
		}
		if int(n) != count || low != fmt.Sprintf("v%d", n%3) || list[0] != fmt.Sprint(n) {
			fail(fmt.Errorf("row %d is %d %s %v", count, n, low, list))
		}
		count++
	}
	fail(rows.Err())
	fmt.Printf("rows %d sum %.0f\n", count, sum)
	_, err = connection.Query(context, "SELECT * FROM file('/etc/passwd')")
	fmt.Println("refused", err != nil && strings.Contains(err.Error(), "Code: "))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
