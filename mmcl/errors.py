"""The one exception that speaks to the person at the keyboard."""


class MmclError(ValueError):
    """Something the user can mend. The text says where, what is wrong, what is allowed and what to do.

    The command line prints it without a traceback and exits with 2; anything else that escapes is a defect of mmcl.
    """
