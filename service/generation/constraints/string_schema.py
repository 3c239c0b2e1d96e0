"""The pattern of a string under its schema."""

import ipaddress
import re
from collections.abc import Callable, Hashable, Iterator
from datetime import date, datetime
from itertools import islice
from random import Random

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.document import Json, at
from service.generation.constraints.flat import Flat
from service.generation.constraints.pattern import (
    Fatal,
    Parser,
    UnsupportedConstraint,
    searches,
)
from service.generation.constraints.tree import (
    EMPTY,
    NOTHING,
    Alternation,
    Characters,
    Concatenation,
    Node,
    Repetition,
    alternation,
    bounded,
    concatenation,
    fit,
    literal,
    narrowed,
    repetition,
    within,
)
from service.generation.constraints.values import PLAIN_IN_JSON, json_string_pattern

SAMPLES = 200  # texts tried where no pattern can be derived
KEPT = 10  # of those that fit
ASCII_LETTERS = charset.union(((65, 90), (97, 122)), charset.of(" "))
IN_JSON = charset.minus(charset.complement(()), charset.SURROGATES)

DATE = "(?:19[7-9][0-9]|20[0-9]{2})-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
WORD = "[a-z]{1,12}"
HOST = rf"{WORD}\.(?:com|org|net)"
UUID = "[0-9a-f]{{8}}-[0-9a-f]{{4}}-{}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"

EXPRESSIONS = {  # by formats: some texts of them, which every checker accepts
    "date-time": f"{DATE}T{TIME}Z",
    "date": DATE,
    "time": f"{TIME}Z",
    "duration": "P(?:[1-9][0-9]?D|T[1-9][0-9]?[HMS])",
    "email idn-email": rf"{WORD}@{HOST}",
    "hostname idn-hostname": HOST,
    "uri uri-reference url iri iri-reference uri-template multi-host-uri": rf"https://{HOST}/{WORD}",
    "uuid uuid4": UUID.format(4),
    **{f"uuid{version}": UUID.format(version) for version in (1, 2, 3, 5, 6, 7, 8)},
    "ipv4 ipvanyaddress": rf"{BYTE}(?:\.{BYTE}){{3}}",
    "ipv4network": rf"10\.{BYTE}\.{BYTE}\.0/24",
    "ipv6": "[1-9a-f][0-9a-f]{3}(?::[1-9a-f][0-9a-f]{3}){7}",
    "json-pointer": rf"/{WORD}",
    "relative-json-pointer": rf"[1-9]/{WORD}",
    "regex": WORD,
    "byte base64": "(?:[A-Za-z0-9+/]{4}){1,5}",
    "base64url": "(?:[A-Za-z0-9_-]{4}){1,5}",
    "color": "#[0-9a-f]{6}",
    "json-string": "[1-9][0-9]?",
}
FORMATS = {name: expression for names, expression in EXPRESSIONS.items() for name in names.split()}

# By format: raises ValueError or returns a falsy value if the text is not of the format.
CHECKS: dict[str, Callable[[str], object]] = {
    "date-time": lambda text: re.fullmatch(r"\d{4}-\d\d-\d\d[Tt].*(?:[Zz]|[+-]\d\d:\d\d)", text) and datetime.fromisoformat(text),
    "date": lambda text: re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) and date.fromisoformat(text),
    "time": lambda text: re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text, re.ASCII),
    "duration": lambda text: re.fullmatch(r"P(?!$)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?", text, re.ASCII),
    "email": lambda text: "@" in text,
    "idn-email": lambda text: "@" in text,
    "hostname": lambda text: (
        len(text) < 254 and re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*", text)
    ),
    "idn-hostname": lambda text: re.fullmatch(r"[a-z0-9]{1,63}(\.[a-z0-9]{1,63})*", text),
    "uri": lambda text: re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!#$&-;=?-Z_a-z~%]*", text),
    "uuid": lambda text: re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text),
    "ipv4": lambda text: ipaddress.IPv4Address(text),
    "ipv6": lambda text: "%" not in text and ipaddress.IPv6Address(text),
    "json-pointer": lambda text: re.fullmatch(r"(/([^~/]|~[01])*)*", text),
    "relative-json-pointer": lambda text: re.fullmatch(r"(0|[1-9]\d*)(#|(/([^~/]|~[01])*)*)", text, re.ASCII),
}


class Strings:
    """Writes strings. `free`: the characters of those whose content is open."""

    def __init__(self, free: str, characters: int, valid: Callable[[str, Json], bool]) -> None:
        """`characters`: how many more than the fewest an open string may have; `valid`: whether a text is valid under a schema."""
        kept = charset.intersection(charset.of(free), PLAIN_IN_JSON)
        self.free: Ranges = kept if charset.size(kept) >= 10 else ASCII_LETTERS
        self.characters = characters
        self._known: dict[Hashable, tuple[Flat, Node | UnsupportedConstraint]] = {}  # with the schemas whose ids the key has
        self.valid = valid

    def pattern(self, flat: Flat, where: str) -> Node:
        """The pattern, quotes included. Raises UnsupportedConstraint."""
        key = flat.patterns, flat.formats, flat.limits.get("minLength"), flat.limits.get("maxLength"), *map(id, flat.excluded)
        if key not in self._known:
            try:
                self._known[key] = flat, json_string_pattern(self.tree(flat))
            except Fatal as error:
                raise type(error)(f"{at(where)}{error}") from None
            except UnsupportedConstraint as error:
                self._known[key] = flat, error
        found = self._known[key][1]
        if isinstance(found, UnsupportedConstraint):
            raise UnsupportedConstraint(f"{at(where)}{found}")
        return found

    def tree(self, flat: Flat) -> Node:
        """The content of the string."""
        shortest, longest = flat.limit("minLength", 0), flat.limit("maxLength", 1 << 30)
        if shortest > longest:
            raise UnsupportedConstraint(f"no string has at least {shortest} and at most {longest} characters")
        known = [name for name in flat.formats if name in FORMATS]
        tree = self._single(flat, known, shortest, longest)
        if tree is None:
            tree = self._sampled(flat, known, shortest, longest)
        if tree == NOTHING:
            wanted = [f"pattern {one!r}" for one in flat.patterns] + [f"format {one!r}" for one in known]
            raise UnsupportedConstraint(f"no string is found with {' and '.join(wanted) or 'these lengths'}")
        return tree

    def _single(self, flat: Flat, formats: list[str], shortest: int, longest: int) -> Node | None:
        """The tree where at most one expression describes the string. None where it does not."""
        if len(flat.patterns) + len(formats) > 1 or flat.excluded:
            return None
        if formats:
            return fit(Parser(FORMATS[formats[0]]).parse(), shortest, longest)
        if flat.patterns:
            return self._searched(flat.patterns[0], shortest, longest)
        return self._open(max(shortest, min(1, longest)), longest)

    def _open(self, shortest: int, longest: int) -> Node:
        return repetition(Characters(self.free), shortest, min(longest, shortest + self.characters))

    def _searched(self, regex: str, shortest: int, longest: int) -> Node | None:
        """What the expression matches, and free characters around it only where the text would be too short otherwise."""
        parser = Parser(regex)
        try:
            tree = self._limited(parser.parse())
        except UnsupportedConstraint:
            Parser(regex, lenient=True).parse()  # raises for what is no expression at all
            return None
        fitted = fit(tree, shortest, longest)
        if fitted != NOTHING:
            return narrowed(fitted)
        padding = self._open(0, shortest)
        before, after = EMPTY if parser.starts else padding, EMPTY if parser.ends else padding
        return narrowed(fit(concatenation([before, tree, after]), shortest, longest))

    def _limited(self, tree: Node) -> Node:
        return within(bounded(tree, self.characters // 2, 3), IN_JSON, self.free)

    def _sampled(self, flat: Flat, formats: list[str], shortest: int, longest: int) -> Node:
        """A choice of texts found by trial, where several expressions, or lookaround, describe the string."""
        sources = self._sources(flat, formats, shortest, longest)
        tried = (text for source in sources for text in samples(source, SAMPLES))
        return alternation(literal(text) for text in islice((text for text in tried if self._fits(text, flat, formats)), KEPT))

    def _sources(self, flat: Flat, formats: list[str], shortest: int, longest: int) -> list[Node]:
        trees = [Parser(FORMATS[name]).parse() for name in formats]
        trees += [self._limited(Parser(regex, lenient=True).parse()) for regex in flat.patterns]
        if not trees:
            trees = [self._open(shortest, longest)]
        if len(trees) > 1:
            trees += [concatenation(trees), concatenation(reversed(trees))]
        fitted = [fit(tree, shortest, longest) for tree in trees]
        return [tree for tree in fitted if tree != NOTHING]

    def _fits(self, text: str, flat: Flat, formats: list[str]) -> bool:
        return (
            all(searches(regex, text) for regex in flat.patterns)
            and all(is_format(text, name) for name in formats)
            and not any(self.valid(text, schema) for schema in flat.excluded)
        )


def is_format(text: str, name: str) -> bool:
    """Whether a text is of the format. Every text is of an unknown one."""
    if name == "regex":
        return re.fullmatch(r"[\w ,;:'@/#%&=-]*", text, re.ASCII) is not None  # surely an expression, in every dialect
    try:
        return bool(CHECKS[name](text)) if name in CHECKS else True
    except ValueError:
        return False


def samples(node: Node, count: int) -> Iterator[str]:
    """Different texts of a tree, found by so many trials. They are the same ones each time."""
    random, known = Random(0), set()
    for _ in range(count):
        text = sample(node, random)
        if text not in known:
            known.add(text)
            yield text


def sample(node: Node, random: Random) -> str:
    match node:
        case Characters(ranges):
            at = random.randrange(charset.size(ranges))
            for first, last in ranges:
                if at <= last - first:
                    return chr(first + at)
                at -= last - first + 1
        case Concatenation(parts):
            return "".join(sample(part, random) for part in parts)
        case Alternation(options):
            return sample(random.choice(options), random)
        case Repetition(part, least, most):
            times = random.randint(least, least + 4 if most is None else min(most, least + 4))
            return "".join(sample(part, random) for _ in range(times))
    raise UnsupportedConstraint("a regular expression of which no text is found")
