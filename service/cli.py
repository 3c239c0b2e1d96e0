"""python -m service generate: continues a text on the terminal, using a running server if there is one, or else this process."""

import argparse
import io
import json
import re
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from service.remote import ADDRESS, Receipt, RemoteServer, Unreachable, answers
from service.settings import settings_here
from trainer.artifact import ArtifactError
from trainer.program import program

ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}  # as on the page
NOT_FOR_GENERATOR = ("model", "start_string", "pace")  # options that are no options of a `Generator`


def generate(arguments: Sequence[str]) -> int:
    """Writes start string and continuation to stdout as they arrive, and a receipt to stderr. Returns 0, or 1 if that fails."""
    options = _options(arguments)
    fields = {name: value for name, value in vars(options).items() if name not in ("url", "models_dir") and value is not None}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack some of a text's characters
    try:
        content = json.dumps({**fields, "stream": True, "echo": True}, allow_nan=False)
        content.encode()
        options.start_string.encode()
    except UnicodeEncodeError:
        return _fail("START or --stop is not text in UTF-8")
    except ValueError:
        return _fail("an option is not a finite number")
    try:
        if options.url or (options.models_dir is None and answers(ADDRESS)):
            receipt = _continue_remotely(options, content)
        else:
            receipt = _continue_here(options, fields)
    except (Unreachable, ArtifactError, ValueError) as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stderr.close()
        return 0
    print(flush=True)
    print(receipt, file=sys.stderr)
    return 0


def _continue_remotely(options: argparse.Namespace, content: str) -> Receipt:
    """Generates by a server. Raises Unreachable."""
    with RemoteServer(options.url or ADDRESS) as server:
        if options.stop:
            model, unknown = server.unknown_characters("".join(options.stop), options.model)
            _warn_of_impossible(options.stop, unknown, model)
        return server.generate(content, _write)


def _continue_here(options: argparse.Namespace, fields: dict[str, Any]) -> Receipt:
    """Generates in this process. Raises ValueError or ArtifactError."""
    if options.pace is not None and not 0.01 <= options.pace <= 1e6:
        raise ValueError(f"--pace is {options.pace:g}, expected 0.01 to 1,000,000")
    from service import models_folder
    from service.generation.backends import Unsupported
    from service.generation.generator import Generator

    settings = settings_here(options.models_dir)
    try:
        path = models_folder.find_model(settings.models_dir, options.model, settings.default_model)
        generator = Generator.load(path, backend=settings.backend, slots=1)
    except Unsupported as error:
        raise ValueError(str(error)) from error
    config = generator.version.config
    stop = options.stop or []
    _warn_of_impossible(stop, set("".join(stop)).difference(generator.vocabulary.characters), config.name)
    with generator.stream(options.start_string, **{k: v for k, v in fields.items() if k not in NOT_FOR_GENERATOR}) as stream:
        _write(options.start_string)
        start = time.perf_counter()
        for text in stream:
            _write(text)
            if options.pace:
                time.sleep(max(0.0, start + stream.num_generated / options.pace - time.perf_counter()))
        seconds = max(time.perf_counter() - start, 1e-9)
    rate, backend = stream.num_generated / seconds, generator.backend
    ended = (str(stream.finish_reason), config.name, config.version, backend.name, backend.precision, stream.seed)
    return Receipt(stream.num_generated, rate, *ended)


def _warn_of_impossible(stop: Sequence[str], unknown: Collection[str], model: str) -> None:
    """Names the stop strings with characters that the model does not know."""
    for string in stop:
        if missing := [repr(character) for character in dict.fromkeys(string) if character in unknown]:
            lacks = f"{model} does not know {', '.join(missing)}"
            print(f"{program('generate')}: --stop {string!r} cannot occur: {lacks}", file=sys.stderr)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _fail(message: str) -> int:
    sys.stdout.flush()
    print(f"\n{program('generate')}: error: {message}", file=sys.stderr)
    return 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("generate"), description=__doc__.partition(": ")[2])
    help_start = "the text to continue; to include a line break, write $'ROMEO:\\n' in bash and zsh"
    parser.add_argument("start_string", metavar="START", help=help_start)
    parser.add_argument(
        "--temperature",
        type=float,
        help="1 follows the model's probabilities, lower values prefer likely characters, 0 always takes the most likely one",
    )
    parser.add_argument("--num-generate", type=int, metavar="N", help="characters to generate (default: 1000)")
    parser.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely characters only")
    help_top_p = "sample from the smallest set of most likely characters whose probabilities add up to P"
    parser.add_argument("--top-p", type=float, metavar="P", help=help_top_p)
    help_min_p = "sample only from characters whose probability is at least P times the highest one"
    parser.add_argument("--min-p", type=float, metavar="P", help=help_min_p)
    help_stop = r"end before this text; \n is a line break, \t a tab, \\ a backslash; may be given several times"
    parser.add_argument("--stop", action="append", metavar="TEXT", type=_unescaped, help=help_stop)
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text")
    parser.add_argument("--pace", type=float, metavar="N", help="most characters a second")
    parser.add_argument("--model", metavar="NAME", help="the model, where there are several")
    parser.add_argument("--url", help=f"a server's address (default: {ADDRESS} if it answers, else no server is used)")
    parser.add_argument("--models-dir", metavar="DIR", help="generate from this folder, without a server")
    return parser.parse_args(arguments)


def _unescaped(text: str) -> str:
    return re.sub(r"\\[nt\\]", lambda pair: ESCAPES[pair[0]], text)
