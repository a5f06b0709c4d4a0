"""What things are: the event contract, windows, metric declarations, tables and views. Imports nothing of ours."""
