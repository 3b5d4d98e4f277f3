"""The fixture under test, also where the distribution is not installed and pytest does not find it by itself."""

from chio_pytest import chio as chio
