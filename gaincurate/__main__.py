"""The entry point of `gaincurate` and of `python -m gaincurate`.

It imports the command line inside a function, because the imports take longer than the shortest commands, and
Ctrl-C in them is no fault.
"""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        try:
            from gaincurate.cli.app import main as run

            run()
        finally:  # all is said: Ctrl-C in what libraries do at exit would print their traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
