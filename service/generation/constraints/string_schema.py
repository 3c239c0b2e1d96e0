"""The pattern of a string under its schema."""

from collections.abc import Callable, Hashable
from itertools import islice

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.document import Json, at
from service.generation.constraints.fitting import bounded, fit, within
from service.generation.constraints.flat import Flat
from service.generation.constraints.formats import FORMATS, is_format
from service.generation.constraints.matching import samples, searches
from service.generation.constraints.narrowing import narrowed
from service.generation.constraints.parsing import Parser
from service.generation.constraints.pattern import PLAIN_IN_JSON, json_string_pattern
from service.generation.constraints.tree import EMPTY, NOTHING, Characters, Node, alternation, concatenation, literal, repetition
from service.generation.constraints.unsupported import Hopeless, UnsupportedConstraint

SAMPLES = 200  # texts tried where no pattern can be derived
KEPT = 10  # of those that fit
ASCII_LETTERS = charset.union(((65, 90), (97, 122)), charset.of(" "))
IN_JSON = charset.minus(charset.complement(()), charset.SURROGATES)


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
        key = flat.patterns, flat.formats, flat.limits.get("minLength"), flat.limits.get("maxLength"), *map(id, flat.unlike)
        if key not in self._known:
            try:
                self._known[key] = flat, json_string_pattern(self.tree(flat))
            except Hopeless:
                raise
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
        if len(flat.patterns) + len(formats) > 1 or flat.unlike:
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
            and not any(self.valid(text, schema) for schema in flat.unlike)
        )
