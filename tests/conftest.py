"""Fixtures of several test files."""
from browser import lab, the_lab   # noqa: F401
