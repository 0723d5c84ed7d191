"""Commands: `cut` and `serve`; and parts of `kedro run`: reading `--params`, checking the selection, packaging."""
