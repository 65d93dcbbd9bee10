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
        finally:
            # All is said. Ctrl-C in what libraries do at exit would print their traceback, and a scheduler's
            # second notice would end the process by it, where 143 says that the work can go on.
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
