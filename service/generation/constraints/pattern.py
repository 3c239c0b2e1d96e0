"""Patterns of regular expressions and of choices.

Regular expressions are read as Python's `re` reads them. `python_dialect` first translates four spellings of ECMA.
"""

import contextlib
import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from re import _constants as op
from re import _parser
from typing import Any

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.tree import NOTHING, Characters, Node, alternation, concatenation, literal, repetition

MAX_POSITIONS = 15_000  # the largest size of a pattern
MAX_REGEX = 10_000
MAX_REPEAT = 10_000

DIGITS: Ranges = ((48, 57),)
WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
SPACE: Ranges = ((9, 13), (32, 32))
# Python and ECMA disagree about non-ASCII digits, letters and spaces. So a class holds only what both take for one, and its
# opposite only what neither does.
ASCII: Ranges = ((0, 127),)
PUNCTUATION: Ranges = ((0x2010, 0x2027), (0x2030, 0x203E), (0x3001, 0x3003), (0x3008, 0x3020))
WIDE_SPACE: Ranges = ((9, 13), (28, 32), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
                      (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF))  # fmt: skip
WITHOUT_DIGITS: Ranges = ((0, 0x65F), (0x2000, 0xA61F), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF))
CATEGORIES: dict[Any, tuple[Ranges, Ranges]] = {  # by category: what it surely holds, and what it surely lacks
    op.CATEGORY_DIGIT: (DIGITS, charset.minus(WITHOUT_DIGITS, DIGITS)),
    op.CATEGORY_WORD: (WORD, charset.union(charset.minus(ASCII, WORD), PUNCTUATION)),
    op.CATEGORY_SPACE: (SPACE, charset.complement(WIDE_SPACE)),
}
OPPOSITES = {
    op.CATEGORY_NOT_DIGIT: op.CATEGORY_DIGIT,
    op.CATEGORY_NOT_WORD: op.CATEGORY_WORD,
    op.CATEGORY_NOT_SPACE: op.CATEGORY_SPACE,
}
STARTS = ((op.AT, op.AT_BEGINNING), (op.AT, op.AT_BEGINNING_STRING))
ENDS = ((op.AT, op.AT_END), (op.AT, op.AT_END_STRING))
WITHOUT_WIDTH = (op.AT, op.ASSERT, op.ASSERT_NOT)
REFUSED = {
    op.ATOMIC_GROUP: "an atomic group",
    op.POSSESSIVE_REPEAT: "a possessive repeat",
    op.GROUPREF: "a back-reference",
    op.GROUPREF_EXISTS: "a conditional group",
}
ESCAPE = r"\\(?:u\{[0-9a-fA-F]{1,6}\}|c[a-zA-Z]|[\s\S])"
CLASS = r"\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]"


class UnsupportedConstraint(ValueError):
    """A regular expression or a JSON Schema that cannot be turned into a pattern. The message says what and where."""


class Fatal(UnsupportedConstraint):
    """Refuses the whole schema. Other alternatives are not tried."""


class TooLarge(Fatal):
    """The pattern is too large. It may be small enough with tighter bounds."""


class TooMuchWork(TooLarge):
    """Finding the pattern takes too long. It may be fast enough with the tightest bounds."""


def regex_pattern(regex: str) -> Node:
    """The pattern of a regular expression. Raises UnsupportedConstraint."""
    tree = Parser(regex).parse()
    if tree == NOTHING:
        raise UnsupportedConstraint(f"no text matches the regular expression {quoted(regex)}")
    return checked(tree)


def choices_pattern(choices: Iterable[str]) -> Node:
    """The pattern of exactly these texts. Raises UnsupportedConstraint where there are none."""
    texts = list(dict.fromkeys(choices))
    if not texts:
        raise UnsupportedConstraint("there are no choices")
    if any(charset.intersection(charset.of(text), charset.SURROGATES) for text in texts):
        raise UnsupportedConstraint("a choice holds half a character (a lone surrogate)")
    return checked(alternation(literal(text) for text in texts))


def checked(pattern: Node, most: int = MAX_POSITIONS) -> Node:
    """The pattern, unless it is too large. Raises TooLarge."""
    if pattern.size > most:
        raise TooLarge(f"the constraint is too large: {pattern.size:,} characters with repeats written out, of at most {most:,}")
    return pattern


def searches(regex: str, text: str) -> bool:
    """Whether the expression matches somewhere in the text. Raises UnsupportedConstraint for what `Parser` refuses.

    Some pairs of an expression and a text take exponential time. They end with the process that compiles constraints.
    """
    return compiled(regex).search(text) is not None


@lru_cache(maxsize=64)
def compiled(regex: str) -> re.Pattern[str]:
    Parser(regex, lenient=True).parse()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in Parser
            return re.compile(python_dialect(regex), re.ASCII)
    except (re.error, ValueError) as error:  # such as a lookbehind of several widths
        raise UnsupportedConstraint(f"this regular expression is not supported: {error} in {quoted(regex)}") from None


class Parser:
    """Turns one expression into a tree. Afterwards `starts` and `ends` say whether it is anchored on that side.

    Anchors at the ends are dropped, because a text matches as a whole. Other anchors, word boundaries and lookaround are refused.
    `lenient`: they are dropped too, so the tree may match more texts than the expression.
    """

    def __init__(self, regex: str, lenient: bool = False) -> None:
        self.regex = regex
        self.lenient = lenient
        self.starts = self.ends = False

    def parse(self) -> Node:
        """The tree.

        Raises UnsupportedConstraint for an invalid expression, and for features that are not supported, such as back-references.
        """
        parsed = syntax_tree(self.regex)
        return self.sequence(list(parsed), parsed.state.flags, True, True)

    def sequence(self, items: list[Any], flags: int, first: bool, last: bool) -> Node:
        """Items one after another. `first`, `last`: an anchor may stand at this end, for nothing is before or after it."""
        if flags & (re.MULTILINE | re.LOCALE):
            raise UnsupportedConstraint(f"the flags m and L are not supported: {quoted(self.regex)}")
        items = [one for one in items if not (self.lenient and one[0] in WITHOUT_WIDTH)]
        begin = next((i for i, one in enumerate(items) if one not in STARTS), len(items))
        end = next((i for i, one in enumerate(reversed(items)) if one not in ENDS), len(items))
        parts = []
        for i, one in enumerate(items):
            outer_first, outer_last = first and i <= begin, last and i >= len(items) - 1 - end
            if one in STARTS and outer_first:
                self.starts = True
            elif one in ENDS and outer_last:
                self.ends = True
            else:
                parts.append(self.item(one[0], one[1], flags, outer_first, outer_last))
        return concatenation(parts)

    def item(self, kind: Any, argument: Any, flags: int, first: bool, last: bool) -> Node:
        if kind in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY):
            return Characters(charset.minus(self.characters(kind, argument, flags), charset.SURROGATES))
        if kind is op.BRANCH:
            return alternation([self.sequence(list(one), flags, first, last) for one in argument[1]])
        if kind is op.SUBPATTERN:
            return self.sequence(list(argument[3]), (flags | argument[1]) & ~argument[2], first, last)
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, items = argument
            if max(least, 0 if most == op.MAXREPEAT else most) > MAX_REPEAT:
                raise UnsupportedConstraint(f"a part is repeated at most {MAX_REPEAT} times: {quoted(self.regex)}")
            part = self.sequence(list(items), flags, first and most == 1, last and most == 1)
            return repetition(part, least, None if most == op.MAXREPEAT else most)
        if kind is op.FAILURE:
            return NOTHING
        raise UnsupportedConstraint(f"a regular expression may not contain {refused(kind, argument)}: {quoted(self.regex)}")

    def characters(self, kind: Any, argument: Any, flags: int) -> Ranges:
        if kind is op.ANY:
            return charset.complement(() if flags & re.DOTALL else charset.union(((10, 10), (13, 13)), charset.LINE_SEPARATORS))
        if kind is op.LITERAL:
            return folded(((argument, argument),), flags, False)
        if kind is op.NOT_LITERAL:
            return charset.complement(folded(((argument, argument),), flags, True))
        negative = argument[0][0] is op.NEGATE
        members = charset.union(*(self.member(kind, member, flags, negative) for kind, member in argument[negative:]))
        return charset.complement(members) if negative else members

    @staticmethod
    def member(kind: Any, argument: Any, flags: int, wide: bool) -> Ranges:
        """One member of a class. `wide`: all that it may hold in either dialect, rather than what it surely does."""
        if kind is op.CATEGORY:
            opposite = argument in OPPOSITES
            holds, lacks = CATEGORIES[OPPOSITES.get(argument, argument)]
            sure, other = (lacks, holds) if opposite else (holds, lacks)
            return charset.complement(other) if wide else sure
        return folded(((argument, argument),) if kind is op.LITERAL else (argument,), flags, wide)


@lru_cache(maxsize=64)
def syntax_tree(regex: str) -> Any:
    """The expression as Python's parser reads it. Raises Fatal for an invalid one."""
    if len(regex) > MAX_REGEX:
        raise UnsupportedConstraint(f"a regular expression has at most {MAX_REGEX} characters, this one {len(regex)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of `[[` and the like, which stay as they are
            return _parser.parse(python_dialect(regex))
    except re.error as error:
        refusal = UnsupportedConstraint if error.msg.startswith("bad escape") else Fatal  # \p{L} is valid elsewhere
        raise refusal(f"not a regular expression: {error} in {quoted(regex)}") from None
    except (RecursionError, OverflowError):
        raise UnsupportedConstraint(f"the regular expression is nested too deep: {quoted(regex)}") from None


def refused(kind: Any, argument: Any) -> str:
    """Names the unsupported construct for an error message."""
    if kind is op.AT:
        one = kind, argument
        return "^ after other characters" if one in STARTS else "$ before other characters" if one in ENDS else "a word boundary"
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return "lookahead" if argument[0] > 0 else "lookbehind"
    return REFUSED[kind]


def folded(ranges: Ranges, flags: int, wide: bool) -> Ranges:
    """With the flag i: the letters in all cases that Python takes for the same. Only ASCII letters, unless `wide`."""
    if not flags & re.IGNORECASE:
        return ranges
    members = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
    return charset.union(ranges, charset.of(re.findall(f"(?{'i' if wide else 'ai'})[{members}]", cased())))


@lru_cache(maxsize=1)
def cased() -> str:
    """All characters that have two cases. None is beyond U+1F000."""
    return "".join(one for one in map(chr, range(0x1F000)) if one.lower() != one.upper())


def python_dialect(regex: str) -> str:
    """Four things that ECMA writes otherwise: named groups, code points in braces, control characters, and `$` for the very end."""

    def translated(found: re.Match[str]) -> str:
        text = found[0]
        if text.startswith("["):
            return re.sub(ESCAPE, translated, text)
        with contextlib.suppress(ValueError):
            if text.startswith("\\u{"):
                return f"\\U{int(text[3:-1], 16):08x}"
            if text.startswith("\\c"):
                return f"\\x{ord(text[2]) % 32:02x}"
        return {"(?<": "(?P<", "$": "\\Z"}.get(text, text)

    return re.sub(rf"{CLASS}|\(\?<(?![=!])|{ESCAPE}|\$", translated, regex)


def quoted(regex: str) -> str:
    """The expression as an error message quotes it."""
    return repr(regex if len(regex) <= 100 else regex[:99] + "…")
