"""The command line: parse, call, show. One verb per file."""
