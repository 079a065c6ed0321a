"""The command line: one file per command, each short: parse, call, render."""
