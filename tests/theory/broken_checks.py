"""Checks that end in other ways than with a verdict, for `test_verify`; imported by its workers."""

import os
import signal
import time

import numpy as np

from theory_checks.catalogue import Statement
from theory_checks.record import Record, compare


def raises(setting, laws):
    """A bug."""
    raise ZeroDivisionError("of this test")


def leaves(setting, laws):
    """A library that ends the process."""
    os._exit(3)


def is_killed(setting, laws):
    """What the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def prints(setting, laws):
    """A check that writes to standard output."""
    print("noise")
    return _holding("prints", setting)


def holds(setting, laws):
    """A check that finds nothing."""
    return _holding("holds", setting)


def _holding(name: str, setting) -> Record:
    """A record that tells the process it was made in."""
    statement = Statement(name, "Title", "Claim.", "broken_checks", function=name)
    found = float(np.sum(setting.y))
    compared = [compare("y", "refit", found, found, 1.0, "")]
    return Record(statement, setting.kernel_name, setting.data, compared, [], [], {"pid": os.getpid()})


def never_ends(setting, laws):
    """A check that somebody interrupts."""
    time.sleep(1000)
