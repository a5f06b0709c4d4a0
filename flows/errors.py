"""Errors, named by the reaction that they ask for, each with the exit code of the command that it ends.

Exit codes: 0 all is well, 1 a check failed or the engine had to stop, 2 wrong usage, 3 something we depend on is down.
"""

from __future__ import annotations

from typing import ClassVar, Final

OK: Final = 0
CHECK_FAILED: Final = 1
USAGE: Final = 2
DEPENDENCY_DOWN: Final = 3


class LivePulseError(Exception):
    """Root of our errors: its text is for the user (what is wrong, and what to do), without a traceback."""

    exit_code: ClassVar[int] = CHECK_FAILED


class Stop(LivePulseError):
    """Going on would lose or falsify something: stop the engine, keep the state, let a person decide."""


class DependencyDown(LivePulseError):
    """A broker, a store or a program that we need is not there: name it, its address and how to start it."""

    exit_code = DEPENDENCY_DOWN


class Usage(LivePulseError):
    """The command was called wrongly: say how to call it."""

    exit_code = USAGE


class BadSetting(Usage):
    """A setting has a value that cannot work: names the setting, the value (masked if secret) and the fix."""

    def __init__(self, setting: str, value: object, problem: str, origin: str = "") -> None:
        where = f" (from {origin})" if origin else ""
        super().__init__(f"setting {setting} = {value!r}{where}: {problem}")
        self.setting = setting
        self.value = value
        self.problem = problem


def causes(error: BaseException) -> list[BaseException]:
    """The error, what it was raised from or in the handling of, and so on to the first one; each once."""
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in found:  # an error that was raised from itself is its own cause
        found.append(seen)
        seen = seen.__cause__ or seen.__context__
    return found
