"""What the commands of `cli.py` do: read `--params`, check the selection of nodes, and package the project."""
