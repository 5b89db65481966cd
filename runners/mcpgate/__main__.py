"""`python -m mcpgate`, the same as the `mcpgate` command. Must never hold logic of its own."""

from mcpgate.cli import main

if __name__ == "__main__":
    main()
