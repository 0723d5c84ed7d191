"""Project settings: https://docs.kedro.org/en/stable/configure/."""

from carvana_kedro.hooks import (
    CheckInputsHook,
    CheckParametersHook,
    LocalCredentialsHook,
    LockOutputsHook,
)
from carvana_kedro.resolvers import RESOLVERS, ConfigLoader
from carvana_kedro.terminal.hooks import RunReportHook, TerminalLogHook

HOOKS = (
    TerminalLogHook(),
    CheckParametersHook(),
    LocalCredentialsHook(),
    CheckInputsHook(),
    LockOutputsHook(),
    RunReportHook(),
)

CONFIG_LOADER_CLASS = ConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "custom_resolvers": RESOLVERS,
    # The default merge replaces a whole top-level key: with a parameters file in the run environment,
    # `--params a.b=1` would drop the other keys of `a`.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
