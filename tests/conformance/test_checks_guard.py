"""Every public law is guarded: the table names a statement, and the check of that statement asks the law."""

import dataclasses
import inspect

import kpoison as kp
from theory_checks.catalogue import GUARDS, STATEMENTS
from theory_checks.setting import Laws

NOT_LAWS = {"sweep", "prepare"}  # they evaluate the laws, and are held against them by tests of their own


def public_laws() -> set[str]:
    """Functions of the package that take a clean posterior and a ridge."""
    found = set()
    for name in kp.__all__:
        value = getattr(kp, name)
        if inspect.isfunction(value) and {"clean", "ridge"} <= set(inspect.signature(value).parameters):
            found.add(name)
    return found - NOT_LAWS


def test_the_table_knows_every_law():
    assert len(public_laws()) > 8
    assert not public_laws() - set(GUARDS)
    assert not {field.name for field in dataclasses.fields(Laws)} - set(GUARDS)
    assert not public_laws() - {field.name for field in dataclasses.fields(Laws)}
    for name, statements in GUARDS.items():
        assert statements, name
        assert set(statements) <= set(STATEMENTS), name
