import random

import pytest

from service.generation.stop import StopStrings


def cut_at_first(text: str, strings: list[str]) -> str | None:
    """The text before the stop string that ends first, the longest of those; by looking everywhere."""
    for end in range(1, len(text) + 1):
        ending = [s for s in strings if text[:end].endswith(s)]
        if ending:
            return text[: end - len(max(ending, key=len))]
    return None


@pytest.mark.parametrize("chunks", [1, 2, 7, 100])
def test_strings_are_found_wherever_they_stand_and_however_the_stream_is_cut(chunks: int) -> None:
    rng = random.Random(chunks)
    found = 0
    for _ in range(2000):
        text = "".join(rng.choices("ab", k=rng.randrange(1, 30)))
        strings = ["".join(rng.choices("ab", k=rng.randrange(1, 7))) for _ in range(rng.randrange(1, 4))]
        stop, expected = StopStrings([[ord(c) for c in s] for s in strings]), cut_at_first(text, strings)
        shown = result = ""
        ids, position = [ord(c) for c in text], 0
        while position < len(ids):
            size = rng.randrange(1, chunks + 1)
            hit = stop.find(ids[position : position + size])
            if hit is not None:
                upto, length = hit
                result = text[: position + upto - length]
                break
            position = min(position + size, len(ids))
            shown = text[: position - stop.begun]
            assert expected is None or len(shown) <= len(expected), "a part of a stop string was shown"
        else:
            assert expected is None
            continue
        assert result == expected
        found += 1
    assert found > 500
