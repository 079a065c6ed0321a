"""One file per command, each short: parse, call, render. Its folder is its group in `--help`."""
