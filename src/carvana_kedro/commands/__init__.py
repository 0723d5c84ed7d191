"""Commands: `cut`, `serve`, and what those of `cli.py` do: read `--params`, check the selection of nodes, package."""
