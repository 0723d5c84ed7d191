"""The one exception that is meant for people."""


class UserError(Exception):
    """Something the user can put right: a wrong parameter, a missing file, bad data.

    The message says which file or parameter, what is wrong with it and what to do. `kedro run` prints it
    alone, without a traceback.
    """
