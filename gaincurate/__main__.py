"""`python -m gaincurate` is the command line."""

from gaincurate.cli.app import main

if __name__ == "__main__":
    main()
