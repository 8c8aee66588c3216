"""`python -m tenure.models`: fetch and convert the default model, so that everything after it works without a network.

Once that has been done, it only reads what is kept, compares every byte with what was written, and ends.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from tenure.errors import ResourceError, UsageError
from tenure.models.fetch import DEFAULT_MODEL
from tenure.models.loader import prepare_default
from tenure.models.progress import TerminalReporter

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Prepare the default model. Returns the exit code: 0, 2 with one line that says why, or 130 when interrupted.

    A request to end (SIGTERM) is an interrupt like Ctrl-C: nothing half-written stays.
    """
    reporter = TerminalReporter()
    if arguments:
        reporter.say(f"tenure: `python -m tenure.models` takes no arguments, not {' '.join(arguments)!r}")
        return EXIT_WRONG_INPUT
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        folder = prepare_default(reporter=reporter, every_byte=True)
    except (UsageError, ResourceError) as error:
        reporter.say(f"tenure: {error}")
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        reporter.say("tenure: interrupted; nothing was kept")
        return EXIT_INTERRUPTED
    reporter.say(f"{DEFAULT_MODEL.title} is ready in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
