"""The command line: the one place, beside ``auscult.load``, where the rooms are joined.

Each verb is a module of this folder with one function. Modules import rooms and torch inside
their functions, so that ``auscult --help`` is instant.
"""

import logging
import sys

from auscult.errors import UserError


def main() -> None:
    """Run the command line; exit 0 on success, 2 for a user's mistake, 130 when interrupted."""
    from auscult.cli.app import app

    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"auscult: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("auscult: interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _exit_on_usage_error(error)
        raise
    finally:
        logging.shutdown()


def _exit_on_usage_error(error: Exception) -> None:
    """Exit with status 2 where typer itself found the mistake on the command line."""
    show = getattr(error, "show", None)
    if callable(show):
        show(file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
