"""The errors that end a command, each with its exit code. `trainer.__main__` prints them."""


class TrainerError(Exception):
    """The message says what is wrong and how to fix it."""

    exit_code = 2  # the command can't be run as given
    when_resumed = ""  # what must be different when the run is resumed


class CorpusError(TrainerError):
    """A text can't be used."""


class RunConflict(TrainerError):
    """The options contradict each other or the state on disk."""


class Diverged(TrainerError):
    """The loss or a weight is not a finite number."""

    exit_code = 1
    when_resumed = ", with a smaller --learning-rate"


class OutOfMemory(TrainerError):
    """A device ran out of memory during training."""

    exit_code = 1


class WorkersDisagree(TrainerError):
    """The options, text, position or weights of this worker differ from those of worker 0."""

    exit_code = 1


class WorkerLost(TrainerError):
    """Another worker disconnected."""

    exit_code = 75  # EX_TEMPFAIL: a supervisor can restart the workers
    when_resumed = " on every worker"
