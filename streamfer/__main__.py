"""``python -m streamfer``: the command line."""

from streamfer.cli import main

if __name__ == "__main__":
    main()
