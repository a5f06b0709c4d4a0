"""The console script `livepulse`: what it imports is little, so that Ctrl-C is heard well from the first moment on."""

from __future__ import annotations

from flows import early_stop


def main() -> None:
    """The console script."""
    early_stop.watch()
    from flows.cli_commands import app

    app(prog_name="livepulse")


if __name__ == "__main__":
    main()
