"""`gcsearch` and `python -m gcsearch`: signals are heard before anything that takes its time is imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from gcsearch.sweep import interrupts


def main() -> NoReturn:
    """Entry point; see `cli.app.main`."""
    interrupts.catch()
    try:
        from gcsearch.cli import app

        interrupts.obey()
    except interrupts.SignalError as error:
        sys.exit(interrupts.farewell(error.number))
    app.main()


if __name__ == "__main__":
    main()
