"""How TensorFlow is imported: with how many threads, faster, and without its notes on oneDNN."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from trainer.resources import cores, cpu_flags, cpu_has_bf16
from trainer.scan_library import choose_library, count_row_shards

# TensorFlow writes these before it reads TF_CPP_MIN_LOG_LEVEL. The last one is wrong: it also appears on CPUs with AVX-512.
NOTES = (
    b"All log messages before absl::InitializeLog() is called are written to STDERR",
    b"oneDNN custom operations are on.",
    b"oneDNN supports DT_INT32 only on platforms with AVX-512.",
)
WITH_ONEDNN = ("vnni", "bf16", "fp16", "amx")  # TensorFlow uses oneDNN by default on CPUs with one of these


def configure_tensorflow(rows: int, precision: str) -> None:
    """Sets the number of TensorFlow's threads for batches of `rows`. Must be called before TensorFlow is imported.

    precision: as in `TrainingConfig`.
    """
    f32 = precision == "f32" or (precision == "auto" and not cpu_has_bf16())
    shards = count_row_shards(rows) if choose_library(rows, f32=f32) is None else 1
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores() // shards)))


@contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Imports TensorFlow without its notes, and pauses the garbage collector for the imports that follow in the block."""
    gc.disable()  # imports make many objects and no garbage: this saves a tenth of their time
    try:
        flags = cpu_flags()
        if "tensorflow" not in sys.modules and any(name in flags for name in WITH_ONEDNN):
            with without_notes():
                _provoke_notes()
        yield
    finally:
        gc.enable()


@contextmanager
def without_notes() -> Iterator[None]:
    """Holds back what is written to standard error, and at the end writes it without the notes.

    A process that aborts within the block writes nothing. So it is not for CPUs without AVX, on which TensorFlow aborts with a
    message.
    """
    with ExitStack() as stack:
        try:
            written, stderr = stack.enter_context(tempfile.TemporaryFile()), os.dup(2)
        except OSError:  # there is no temporary folder, or no standard error
            yield
            return
        try:
            os.dup2(written.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            kept = [line for line in written if not any(note in line for note in NOTES)]
            with suppress(OSError), open(2, "wb", closefd=False) as out:
                out.writelines(kept)


def _provoke_notes() -> None:
    """Imports TensorFlow and transposes integers once: both write notes.

    The transposition runs in a session of its own, on the CPU. Several workers start as a cluster, and TensorFlow refuses that once
    it has computed outside of sessions.
    """
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        session.run(tf.transpose(tf.zeros((1, 1), tf.int32)))
