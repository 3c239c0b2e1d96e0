import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import corpus
from trainer.corpus import Newlines, OnUnknown
from trainer.errors import CorpusError
from trainer.vocabulary import Vocabulary


def read(tmp_path: Path, *texts: bytes, newlines: Newlines = "universal") -> corpus.Corpus:
    paths = []
    for i, text in enumerate(texts):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_bytes(text)
    return corpus.read(paths, tmp_path, newlines)


@pytest.mark.parametrize("text", ["hello", "道可道，非常道。", "🎭🎭a🎉", "a\r\nb\rc\n", "mark\ufeff", "\x00\u2028"])
def test_any_utf8_text_is_read_as_it_is(tmp_path: Path, text: str) -> None:
    read_text = read(tmp_path, text.encode(), newlines="keep")
    assert read_text.vocabulary.characters == sorted(set(text))
    assert read_text.vocabulary.decode(read_text.ids) == text
    assert read_text.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_files_are_one_text_in_their_order(tmp_path: Path) -> None:
    text = read(tmp_path, b"one ", "dös ".encode(), b"three")
    assert text.vocabulary.decode(text.ids) == "one dös three"


def test_characters_cut_by_a_block_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "aé語🎭" * 100
    for block in (1, 2, 3, 5, 7):
        monkeypatch.setattr(corpus, "BLOCK", block)
        read_text = read(tmp_path, text.encode())
        assert read_text.vocabulary.decode(read_text.ids) == text


@pytest.mark.parametrize("block", [1, 2, 3, 4, 1 << 20])
def test_line_ends_are_lf_wherever_a_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(corpus, "BLOCK", block)
    text = read(tmp_path, "語\r\nb\rc\n\r\r\n\n\r".encode())
    assert text.vocabulary.decode(text.ids) == "語\nb\nc\n\n\n\n\n"
    assert "\r" not in text.vocabulary.characters
    assert text.converted == 5
    kept = read(tmp_path, "語\r\nb\r".encode(), newlines="keep")
    assert kept.vocabulary.decode(kept.ids) == "語\r\nb\r"
    assert kept.converted == 0


def test_a_line_end_does_not_span_two_files(tmp_path: Path) -> None:
    text = read(tmp_path, b"one\r", b"\ntwo")
    assert text.vocabulary.decode(text.ids) == "one\n\ntwo"


def test_the_hash_is_that_of_the_files_as_they_are(tmp_path: Path) -> None:
    first, second = "\ufeffa\r\n".encode(), b"b\r"
    for newlines in ("universal", "keep"):
        assert read(tmp_path, first, second, newlines=newlines).sha256 == hashlib.sha256(first + second).hexdigest()


@pytest.mark.parametrize("block", [1, 2, 1 << 20])
@pytest.mark.parametrize("newlines", ["universal", "keep"])
def test_each_files_byte_order_mark_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, newlines: Newlines
) -> None:
    monkeypatch.setattr(corpus, "BLOCK", block)
    text = read(tmp_path, "\ufeff\ufeffone ".encode(), "\ufefftwo".encode(), newlines=newlines)
    assert text.vocabulary.decode(text.ids) == "\ufeffone two"
    with pytest.raises(CorpusError, match="no text in it"):
        read(tmp_path, "\ufeff".encode(), newlines=newlines)


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-16-BE", "UTF-32", "UTF-32-BE"])
def test_another_encodings_byte_order_mark_is_named(tmp_path: Path, encoding: str) -> None:
    text = "words" if encoding in ("UTF-16", "UTF-32") else "\ufeffwords"
    with pytest.raises(CorpusError, match=rf"0\.txt: has the byte-order mark of {encoding[:6]}; save it as UTF-8"):
        read(tmp_path, text.encode(encoding))


def test_known_characters_join_the_vocabulary_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("db")
    text = corpus.read([tmp_path / "text"], tmp_path, known=["c", "b", "語"])
    assert text.vocabulary.characters == ["b", "c", "d", "語"]
    assert text.ids.tolist() == [2, 0]


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize(("on_unknown", "read_as"), [("skip", "a b"), ("replace", " a   b ")])
def test_unknown_characters_are_skipped_or_read_as_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, on_unknown: OnUnknown, read_as: str
) -> None:
    monkeypatch.setattr(corpus, "BLOCK", block)
    (tmp_path / "text").write_text("%aé 語b🎭")
    vocabulary = Vocabulary(" ab")
    encoded = corpus.encode([tmp_path / "text"], vocabulary, tmp_path, on_unknown=on_unknown)
    assert vocabulary.decode(encoded.ids) == read_as
    assert encoded.unknown == 4


def test_what_unknown_characters_leave_nothing_of_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("é語")
    with pytest.raises(CorpusError, match="none of its characters is in the model's vocabulary"):
        corpus.encode([tmp_path / "text"], Vocabulary("ab"), tmp_path, on_unknown="skip")
    with pytest.raises(CorpusError, match="needs a space in the model's vocabulary, and there is none; use --on-unknown skip"):
        corpus.encode([tmp_path / "text"], Vocabulary("ab"), tmp_path, on_unknown="replace")
    (tmp_path / "text").write_text("ab")
    assert corpus.encode([tmp_path / "text"], Vocabulary("ab"), tmp_path, on_unknown="replace").unknown == 0


@pytest.mark.parametrize(("distinct", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (70_000, np.uint32)])
def test_ids_take_as_few_bytes_as_the_vocabulary_allows(tmp_path: Path, distinct: int, dtype: type) -> None:
    points = [point for point in range(distinct + 0x800) if not 0xD800 <= point <= 0xDFFF][:distinct]
    text = read(tmp_path, "".join(map(chr, points)).encode(), newlines="keep")
    assert text.ids.dtype == dtype
    np.testing.assert_array_equal(text.ids, np.arange(distinct))


@pytest.mark.parametrize("block", [4, 1 << 20])
def test_the_byte_that_is_not_utf8_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(corpus, "BLOCK", block)
    with pytest.raises(CorpusError, match=r"1\.txt: not UTF-8: byte 0xff at offset 8 \(invalid start byte\)"):
        read(tmp_path, b"fine", "sech语s".encode() + b"\xff rest")


def test_a_text_that_ends_within_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"byte 0xe8 at offset 2 \(unexpected end of data\)"):
        read(tmp_path, b"ab" + "語".encode()[:2])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"absent\.txt: No such file"):
        corpus.read([tmp_path / "absent.txt"], tmp_path)


def test_what_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="pipe: is not a regular file"):
        corpus.read([tmp_path / "pipe"], tmp_path)
    with pytest.raises(CorpusError, match=": is a directory"):
        corpus.read([tmp_path], tmp_path)


def test_errors_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, folder = tmp_path / "text", tmp_path / "ids"
    text.write_text("abc")
    folder.mkdir()
    with pytest.raises(CorpusError):
        corpus.encode([text], Vocabulary("ab"), folder)
    assert not list(folder.iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Vocabulary, "look_up", full)
    with pytest.raises(OSError, match="space"):
        corpus.encode([text], Vocabulary("abc"), folder)
    assert not list(folder.iterdir())


def test_ids_leave_nothing_behind(tmp_path: Path) -> None:
    text = read(tmp_path, b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["0.txt"]
    assert text.vocabulary.decode(text.ids) == "text"
    assert len(corpus.encode([tmp_path / "0.txt"], text.vocabulary, tmp_path).ids) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["0.txt"]


@pytest.mark.parametrize("then", ["eno", "two", "123"])
def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    (tmp_path / "text").write_text("one")
    min_scalar_type = np.min_scalar_type

    def between_the_passes(number: int) -> np.dtype[Any]:
        (tmp_path / "text").write_text(then)
        return min_scalar_type(number)

    monkeypatch.setattr(np, "min_scalar_type", between_the_passes)
    with pytest.raises(CorpusError, match="changed while being read"):
        corpus.read([tmp_path / "text"], tmp_path)


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no text"):
        read(tmp_path, b"", b"")


def test_a_text_is_encoded_in_a_vocabulary_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abba")
    assert corpus.encode([tmp_path / "text"], Vocabulary("ab"), tmp_path).ids.tolist() == [0, 1, 1, 0]
    (tmp_path / "text").write_text("abcabd" + "x" * 100)
    with pytest.raises(
        CorpusError, match=r"text: not in the model's vocabulary: 'c' at position 2; 'd' at position 5; .* and more"
    ):
        corpus.encode([tmp_path / "text"], Vocabulary("ab"), tmp_path)
    (tmp_path / "text").write_text("")
    with pytest.raises(CorpusError, match="no text in it"):
        corpus.encode([tmp_path / "text"], Vocabulary("ab"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """100 MB more of text must not cost even a tenth of that in memory: read in a process of its own, whose peak counts.

    VmHWM is that process's own, in KiB; ru_maxrss would begin with the peak of whoever started it.
    """
    program = (
        "import re, sys; from pathlib import Path; from trainer import corpus;"
        "corpus.read([Path(sys.argv[1])], Path(sys.argv[2]));"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )

    def peak(megabytes: int) -> int:
        path = tmp_path / f"{megabytes}.txt"
        megabyte = ("语言模型🎭 text\n" * 43_691)[: 1 << 19].encode()[: 1 << 20].ljust(1 << 20, b".")
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(megabyte)
        return int(subprocess.check_output([sys.executable, "-c", program, path, tmp_path]))

    assert peak(104) - peak(4) < 10 * 1024
