"""What a script or a notebook calls, and the command line too: run, read, board, compare, score, tasks, models."""
