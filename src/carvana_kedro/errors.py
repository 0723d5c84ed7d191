"""The exception for errors that the user can fix."""


class UserError(Exception):
    """An error that the user can fix: a wrong parameter, a missing file, bad data.

    The message says which file or parameter is wrong, what is wrong with it and what to do. `kedro run` prints only
    the message, without a traceback.
    """
