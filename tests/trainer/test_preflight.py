"""The checks before a run."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.config import TrainingConfig
from trainer.errors import CorpusError, TrainerError
from trainer.preflight import check_disk, check_length, check_memory, estimate_memory


def test_a_text_too_short_for_a_batch_is_refused_with_what_is_missing() -> None:
    check_length(404, rows=4, seq_length=100)
    with pytest.raises(CorpusError, match=r"403 characters to train on, 1 short of one batch: 4 rows of 101 characters are 404"):
        check_length(403, rows=4, seq_length=100)


def test_a_run_too_large_for_the_memory_is_refused_with_what_to_reduce() -> None:
    check_memory(TrainingConfig(units=8), list("ab"))
    with pytest.raises(TrainerError, match=r"3 x 1,000,000 units .* use fewer --units or --layers, or a smaller --batch-size"):
        check_memory(TrainingConfig(units=1_000_000, layers=3), list("ab"))


def test_memory_is_counted_for_what_a_large_vocabulary_takes() -> None:
    """Against peaks measured in processes of their own (MiB of VmHWM on a CPU without bfloat16): a floor, and near them."""
    large = [chr(point) for point in range(0x4E00, 0x4E00 + 20_000)]
    for options, vocabulary, peak in (
        ({"units": 64, "embedding": 32, "batch_size": 16, "seq_length": 32}, large, 786),
        ({"units": 256, "embedding": 64, "batch_size": 64, "seq_length": 64}, large, 1983),
        ({"units": 256, "embedding": 64, "batch_size": 32, "seq_length": 64}, large[:65], 743),
        ({"units": 1024}, large[:65], 1164),
        ({"units": 2048, "batch_size": 16, "seq_length": 16, "averaging": 0}, large[:65], 1377),
    ):
        estimate = estimate_memory(TrainingConfig.model_validate(options), vocabulary) / 2**20
        assert 0.7 * peak < estimate < peak, options


def test_a_run_that_does_not_fit_on_the_disk_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(models_dir=tmp_path, units=100, epochs=3, averaging=0)
    config.work_dir.mkdir(parents=True)
    weights = 4 * config.architecture(list("ab")).parameter_count
    needed = 2 * 3 * weights + 4 * weights  # the state and its successor, three checkpoints, the published version

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    leave(needed)
    check_disk(config, list("ab"))
    leave(needed - 1)
    with pytest.raises(TrainerError, match=r"3 checkpoints need 4 MiB, 4 MiB are free; free some space, or use fewer --epochs"):
        check_disk(config, list("ab"))
    (config.work_dir / "state.safetensors").write_bytes(b"0")
    check_disk(config, list("ab"))
