"""`python -m p2pinfer.node`: the node program. It parses, composes and runs; it decides nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from p2pinfer.cli.failures import CRASH_FILE, kept_traceback, run_command
from p2pinfer.cli.serve import chosen_settings, make_parser, serve, start_logging
from p2pinfer.config import load_config

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a node as the flags say and return its exit code."""
    args = make_parser().parse_args(argv)
    return run_command(partial(_run, args), debug=args.debug)


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config, chosen_settings(args))
    start_logging(config.log_level)
    # Here and not above: --help and a wrong setting must not wait for trio and numpy.
    import trio

    from p2pinfer.runtime.peer import open_peer

    with kept_traceback(config.data_dir / CRASH_FILE):
        trio.run(serve, open_peer, config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
