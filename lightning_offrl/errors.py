"""The one exception for mistakes in what a user gave."""


class InputError(ValueError):
    """Something the user gave cannot be used: what was expected, what came, what to do, in one sentence.

    The command line prints the sentence alone; from Python it is an ordinary ``ValueError``.
    """
