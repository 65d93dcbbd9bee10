"""What every other package stands on: the border for foreign files."""
