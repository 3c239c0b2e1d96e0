"""What TensorFlow writes to standard error while it is imported."""

import os

import pytest

from trainer import importing

NOTE = b"I0000 00:00:1795800162.723286    4300 port.cc:153] oneDNN custom operations are on. You may see other results.\n"


def test_only_the_notes_on_onednn_are_dropped(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with importing.without_notes():
        os.write(2, NOTE)
        os.write(2, b"a warning\n")
    os.write(2, NOTE)
    assert capfdbinary.readouterr().err == b"a warning\n" + NOTE


def test_what_was_written_before_an_error_is_kept(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def fail() -> None:
        with importing.without_notes():
            os.write(2, b"no such library\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfdbinary.readouterr().err == b"no such library\n"


def test_nothing_is_dropped_without_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", "/no/such/folder")
        with importing.without_notes():
            os.write(2, NOTE)
    assert capfdbinary.readouterr().err == NOTE
