"""Regular expressions and choices as patterns."""

import json

import pytest

from service.generation.constraints.pattern import UnsupportedConstraint, choices_pattern, regex_pattern
from service.generation.constraints.values import json_string_pattern
from tests.service.generation.constraints.walks import Automaton


@pytest.mark.parametrize(
    ("regex", "matching", "other"),
    [
        ("a|ab|", ["a", "ab", ""], ["b", "aba"]),
        (r"^\d{3}-[a-z]+$", ["123-a", "000-xyz"], ["12-a", "123-", "123-A"]),
        (r"(?i)Hello [^a-c]", ["hELLO d", "hello !"], ["hello a", "hello B"]),
        (r"(?i)[^é][^s]{2}[^a-z]", ["axy1"], ["éxy1", "Éxy1", "aſy1", "axS1", "axy\u212a"]),
        (r"(?i)[^i][^α-ω]", ["aa"], ["Ia", "İa", "ıa", "aΣ", "aς"]),
        (r"(?i)[à-é]s", ["às", "éS"], ["aſ", "éś"]),
        (r"[^\W\d]+", ["aB_"], ["a1", ""]),
        (r"\S\s\D\W", ["a \n-", "é\t!!"], ["a11-", "a !a"]),
        (r"(?<year>\d{4})-(?P<month>\d\d)", ["2026-11"], ["2026-1"]),
        ("x{2,3}?y*?", ["xx", "xxxyy"], ["x", "xxxx"]),
        ("^(?:a|b)$|^c$", ["a", "b", "c"], ["ac"]),
        (".", ["a", "é"], ["\n", ""]),
        ("(?s).", ["a", "\n"], ["ab"]),
        (r"\u00e9\u{1F600}\cJ\/", ["é😀\n/"], ["é"]),
        (r"[\]\[&&~~^-]{9}", ["]^-~~&&[]"], ["a" * 9]),
        (r"\.\+\*\?\(\)\|\{\}\$#&-~\\", [r".+*?()|{}$#&-~\\"[:-1]], ["a"]),
        ("(?:a{0,2}b){1,2}c{0}", ["b", "aabab"], ["", "c", "aaab"]),
        ("a{2,}", ["aa", "a" * 9], ["a"]),
    ],
)
def test_a_regular_expression_matches_the_same_texts_in_rust(regex: str, matching: list[str], other: list[str]) -> None:
    automaton = Automaton(regex_pattern(regex), "".join(matching + other))
    assert [one for one in matching if not automaton.matches(one)] == []
    assert [one for one in other if automaton.matches(one)] == []


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        (r"(a)\1", r"a back-reference: '\(a\)"),
        ("a(?=b)", "lookahead"),
        ("(?<!a)b", "lookbehind"),
        (r"x\by", "a word boundary"),
        ("a^b", r"\^ after other characters"),
        ("a$b", r"\$ before other characters"),
        ("a++", "a possessive repeat"),
        ("(?>a)", "an atomic group"),
        ("(a)(?(1)b)", "a conditional group"),
        ("(?m)a", "flags m and L"),
        ("(", "not a regular expression: missing"),
        ("[", "not a regular expression: unterminated"),
        (r"\p{L}", "not a regular expression: bad escape"),
        ("(" * 2000 + ")" * 2000, "nested too deep"),
        ("a" * 10_001, "at most 10000 characters, this one 10001"),
        ("(?:(?:a{100}){100}){100}", "the constraint is too large"),
        ("a{20000}", "at most 10000 times"),
        (r"[^\s\S]", "no text matches"),
    ],
)
def test_what_no_automaton_can_hold_is_refused(regex: str, message: str) -> None:
    with pytest.raises(UnsupportedConstraint, match=message):
        regex_pattern(regex)


def test_choices_match_exactly_themselves() -> None:
    choices = ["yes", "yes, but", "no.*", "", 'é"\n', "yes"]
    automaton = Automaton(choices_pattern(choices))
    assert all(automaton.matches(one) for one in choices)
    assert not any(automaton.matches(one) for one in ["no", "no..", "ye", "yes,"])
    with pytest.raises(UnsupportedConstraint, match="no choices"):
        choices_pattern([])
    with pytest.raises(UnsupportedConstraint, match="lone surrogate"):
        choices_pattern(["\ud800"])


@pytest.mark.parametrize(
    ("regex", "contents", "other"),
    [
        (r'"\\', ['"\\'], ["\\"]),
        (r"[^a]", ["b", " "], ["a", '"', "\\", "\n"]),
        (r"\n|ab", ["\n", "ab"], []),
        (r'["\\]', ['"', "\\"], ["a"]),
        (r'["x]', ["x"], ['"']),
        ("a|b", ["a", "b"], ['a"', '"b']),
    ],
)
def test_a_regular_expression_as_the_inside_of_a_json_string(regex: str, contents: list[str], other: list[str]) -> None:
    automaton = Automaton(json_string_pattern(regex_pattern(regex)))
    assert all(automaton.matches(json.dumps(one)) for one in contents)
    assert not any(automaton.matches(json.dumps(one)) or automaton.matches(f'"{one}"') for one in other)


@pytest.mark.parametrize(
    ("regex", "size"),
    [
        ("abc", 3),
        ("a{3}", 3),
        ("(?:ab|c){2,3}d?", 10),
        (r"[\]a]{4}\.\*", 6),
        ("a*b+", 2),
        ("(?:(?:a{10}){10})", 100),
        (r"\u000a{2}", 2),
    ],
)
def test_the_size_of_a_pattern_counts_repeats(regex: str, size: int) -> None:
    assert regex_pattern(regex).size == size


def test_a_range_of_large_numbers_is_compiled_at_once() -> None:
    options = [f"19{{{nines}}}[0-8][0-9]{{{40 - nines}}}" for nines in range(40)]  # takes ages without START
    automaton = Automaton(regex_pattern("|".join(options)))
    assert automaton.matches("19" + "8" * 40)
    assert len(automaton.moves) < 1_000
