"""``python -m iml_bench``, and so ``accelerate launch -m iml_bench``."""

from iml_bench.cli.app import main

if __name__ == "__main__":
    main()
