"""``python -m skywright`` is ``skywright``."""

from skywright.cli import main

if __name__ == "__main__":
    main()
