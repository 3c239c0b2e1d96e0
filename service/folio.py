"""The command `folio`. It imports a command's code only when that command runs, so its help appears at once."""

import sys
from collections.abc import Sequence

HELP = """\
usage: folio COMMAND [OPTIONS]

Trains a character-level recurrent network on any text, and serves it over REST and SSE.

  serve      serve the models in ./models, or else the included model, on http://127.0.0.1:8000
  generate   continue a text on the terminal
  models     list the models that `serve` would serve
  export     write a model as ONNX, or its tokenizer.json
  train      train a model on a text and publish it in ./models
  evaluate   score a model on a text

`folio COMMAND --help` describes a command. `folio --version` prints the version.
`train` and `evaluate` need the extra trainer: pip install 'folio-rnn[trainer]'.
"""


def main() -> None:
    """Runs the command that the process's arguments name, and ends the process."""
    if sys.argv[1:2] and sys.argv[1] in ("serve", "generate"):
        from service.__main__ import leave
        from service.__main__ import main as serve

        leave(serve(sys.argv[2:] if sys.argv[1] == "serve" else sys.argv[1:]))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command other than `serve` and `generate`."""
    match [*arguments]:
        case ["-h" | "--help" | "help"]:
            print(HELP, end="")
        case ["--version"]:
            from trainer import __version__

            print(f"folio {__version__}")
        case ["models", *rest]:
            from service.model_list import print_models

            return print_models(rest)
        case ["export", *rest]:
            from service.export import export

            return export(rest)
        case ["train" | "evaluate", *_]:
            from trainer.__main__ import main as train

            code: int = train(arguments)
            return code
        case []:
            print(HELP, end="", file=sys.stderr)
            return 2
        case [unknown, *_]:
            print(f"folio: error: there is no command {unknown!r}; `folio --help` lists them", file=sys.stderr)
            return 2
    return 0
