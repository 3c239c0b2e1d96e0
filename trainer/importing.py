"""How TensorFlow is imported: faster, and without its notes on oneDNN. Does not know what is imported with it."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.resources import cpu_flags

# Written before TF_CPP_MIN_LOG_LEVEL applies. The last one is wrong, too: it comes on CPUs with AVX-512.
NOTES = (
    b"All log messages before absl::InitializeLog() is called are written to STDERR",
    b"oneDNN custom operations are on.",
    b"oneDNN supports DT_INT32 only on platforms with AVX-512.",
)
WITH_ONEDNN = ("vnni", "bf16", "fp16", "amx")  # TensorFlow uses oneDNN by default on CPUs with one of these


@contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Wraps the imports that load TensorFlow: pauses the garbage collector, and keeps TensorFlow's notes off standard error."""
    gc.disable()  # the imports make many objects and no garbage: this saves a tenth of their time
    try:
        with _without_notes():
            yield
            import tensorflow as tf

            # The first transposition writes a note. It runs in a session of its own, because several workers start as a cluster,
            # and TensorFlow refuses that once it has computed outside of sessions.
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                session.run(tf.transpose(tf.zeros((1, 1), tf.int32)))
    finally:
        gc.enable()


@contextmanager
def _without_notes() -> Iterator[None]:
    """Holds back what is written to standard error, and at the end writes it without the notes.

    Holds back nothing on CPUs on which TensorFlow does not use oneDNN. Without AVX it aborts the process, with a message.
    """
    if "tensorflow" in sys.modules or not any(name in cpu_flags() for name in WITH_ONEDNN):
        yield
        return
    with tempfile.TemporaryFile() as written:
        stderr = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            os.write(2, b"".join(line for line in written if not any(note in line for note in NOTES)))
