r"""The shorthand classes `\d`, `\w` and `\s`, written for RE2."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Classes:
    r"""How `\d`, `\w` and `\s` are written inside an RE2 bracket.

    Attributes:
        letters: what `\w` holds beside digits and connectors.
        connectors: connecting punctuation without `_`.
    """

    letters: str
    digit: str
    connectors: str
    space: str
    not_digit: str
    not_space: str

    @property
    def word(self) -> str:
        r"""The content of a bracket that is `\w`."""
        return f"{self.letters}{self.digit}{self.connectors}_"


# Unicode's Alphabetic is L, Nl, some of M, and the circled letters; `\w` adds all of M and the two joiners.
UNICODE = Classes(
    letters=(
        r"\p{L}\p{Nl}\p{M}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}"
        r"\x{200C}\x{200D}"
    ),
    digit=r"\p{Nd}",
    connectors=r"\x{203F}\x{2040}\x{2054}\x{FE33}\x{FE34}\x{FE4D}-\x{FE4F}\x{FF3F}",
    space=(r"\x{9}-\x{D} \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"),
    not_digit=r"\P{Nd}",
    not_space=(
        r"\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}"
        r"\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF}"
    ),
)
"""The classes as Rust means them."""

ASCII = Classes(
    letters="A-Za-z",
    digit="0-9",
    connectors="",
    space=r"\x{9}-\x{D} ",
    not_digit=r"\x{0}-/:-\x{10FFFF}",
    not_space=r"\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{10FFFF}",
)
"""The same classes as far as ASCII text can tell, for a program that is a hundred times smaller."""
