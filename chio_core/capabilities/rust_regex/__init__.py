"""Regular expressions of the Rust `regex` crate, rewritten for RE2."""

from chio_core.capabilities.rust_regex.classes import ASCII, UNICODE, Classes
from chio_core.capabilities.rust_regex.translate import MAX_COUNT, MAX_NESTING, Translation, translate

__all__ = ["ASCII", "MAX_COUNT", "MAX_NESTING", "UNICODE", "Classes", "Translation", "translate"]
