"""What TensorFlow writes to standard error while it is imported."""

import os
import sys

import pytest

from trainer import importing

NOTE = b"I0000 00:00:1795800162.723286    4300 port.cc:153] oneDNN custom operations are on. You may see other results.\n"


@pytest.mark.parametrize(("flags", "written"), [("fma avx512_vnni", b"a warning\n"), ("fma avx2", NOTE + b"a warning\n")])
def test_only_the_notes_on_onednn_are_dropped_where_tensorflow_uses_it(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], flags: str, written: bytes
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(importing, "cpu_flags", lambda: flags)
    with importing._without_notes():
        os.write(2, NOTE)
        os.write(2, b"a warning\n")
    assert capfdbinary.readouterr().err == written


def test_what_was_written_before_an_error_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(importing, "cpu_flags", lambda: "avx512_vnni")

    def fail() -> None:
        with importing._without_notes():
            os.write(2, b"no such library\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfdbinary.readouterr().err == b"no such library\n"
