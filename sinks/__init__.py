"""Where rows go: the ClickHouse client, the embedded store and its HTTP gateway."""
