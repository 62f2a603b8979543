"""The one exception that means "what you gave is wrong": commands answer it with one line."""


class InputError(Exception):
    """A file, option or value from outside cannot be used.

    The message is a single line for the person at the terminal: what is wrong, where (file and
    line, or key), what was expected, what to do. Commands print it after ``error:`` and exit
    with 2; everything else that escapes is a defect of this package and keeps its traceback.
    """
