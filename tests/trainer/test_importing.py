"""How TensorFlow is imported."""

import os

import pytest

from trainer import importing, scan_library

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


def set_threads(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    """Sets or removes the variable. Removing an absent one would undo nothing at the end of the test."""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")


def test_the_shards_of_a_batch_share_the_cores_unless_a_variable_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "cores", lambda: 6)
    monkeypatch.setattr(scan_library, "find_library", object)
    cases = [(8, "bf16", None, "6"), (64, "bf16", None, "3"), (64, "f32", None, "6"), (64, "bf16", "5", "5")]
    for rows, precision, given, expected in cases:
        set_threads(monkeypatch, given)
        importing.configure_tensorflow(rows, precision)
        assert os.environ["TF_NUM_INTRAOP_THREADS"] == expected


def test_a_batch_has_shards_where_the_recurrence_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "cores", lambda: 6)
    monkeypatch.setattr(scan_library, "find_library", lambda: None)
    set_threads(monkeypatch, None)
    importing.configure_tensorflow(64, "f32")
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "3"
