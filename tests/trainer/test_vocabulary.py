import numpy as np
import pytest

from trainer.vocabulary import UnknownCharacters, Vocabulary


def test_ids_are_places_in_code_point_order() -> None:
    text = "語é🎭ba\n\u2028"
    vocabulary = Vocabulary(sorted(set(text)))
    assert vocabulary.characters == sorted(set(text))
    assert vocabulary.encode(text).tolist() == [sorted(set(text)).index(character) for character in text]


def test_decoding_gives_the_text_back() -> None:
    text = "語é🎭ba\r\n\u2028\x00"
    vocabulary = Vocabulary(sorted(set(text)))
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_an_empty_text_has_no_ids() -> None:
    assert Vocabulary("a").encode("").shape == (0,)


def test_every_unknown_character_is_named_with_its_places() -> None:
    with pytest.raises(UnknownCharacters) as caught:
        Vocabulary("abc").encode("aéb🎭é\ud800")
    assert caught.value.places == [(1, "é"), (3, "🎭"), (4, "é"), (5, "\ud800")]
    assert str(caught.value) == r"not in the model's vocabulary: 'é' at position 1, 4; '🎭' at position 3; '\ud800' at position 5"


@pytest.mark.parametrize("characters", [[], ["a", "a"], ["ab"], [""], ["\ud800"]])
def test_what_is_no_vocabulary_is_refused(characters: list[str]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary(characters)


def test_all_of_unicode_fits() -> None:
    characters = [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]
    vocabulary = Vocabulary(characters)
    text = "".join(characters)
    np.testing.assert_array_equal(vocabulary.encode(text), np.arange(len(characters)))
