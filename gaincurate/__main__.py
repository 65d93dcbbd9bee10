"""The entry point of `gaincurate` and of `python -m gaincurate`.

It imports the command line inside a function, because the imports take longer than the shortest commands and
Ctrl-C during them is not an error.
"""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        try:
            from gaincurate.cli.app import main as run

            run()
        finally:
            # The output is complete. Ctrl-C in a library's exit handler would print a traceback, and a second
            # notice of a scheduler would replace the exit code 143, which says that the work can go on.
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
