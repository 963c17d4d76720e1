"""``python -m iml_bench``, and so ``accelerate launch -m iml_bench``; the console script."""

import signal


def main() -> None:
    """Carry the command line out; until it is imported an interrupt ends the process as it ends any other program."""
    # There is nothing to say and nothing to keep yet, and Python would show where in the imports it was.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from iml_bench.cli.app import main as carry_out

    carry_out()


if __name__ == "__main__":
    main()
