"""The errors that this package raises on purpose."""


class FmaError(Exception):
    """Something is wrong with the input or the command, and a person can put it right.

    The message names the thing and the remedy. Command lines print it without a traceback and exit with
    status 1.
    """


class ClipError(Exception):
    """A clip that cannot be used.

    Attributes:
      reason: one word for the table of rejects: ``missing``, ``empty``, ``undecodable`` or ``short``.
      detail: one line that says more.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = detail
