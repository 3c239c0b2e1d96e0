"""python -m service generate: a start string continued on the terminal, by a running server or, without one, in this process."""

import argparse
import io
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings

ADDRESS = "http://127.0.0.1:8000"
KEY = "FOLIO_API_KEY"  # the variable that holds the key for a server that wants one
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}  # as on the page
TRIES = 5  # to go on with a stream that was cut, after 1/2, 1, 2 and 4 seconds


def generate(arguments: Sequence[str]) -> int:
    """Writes start string and continuation to stdout as they come, the receipt to stderr. Returns 0, or 1 if that fails."""
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
        with _server(options.url, options.models_dir) as address, _client(address) as client:
            _warn_of_impossible(client, options.stop or [], options.model)
            return _continue(client, content)
    except Unreachable as error:
        return _fail(str(error))
    except ValidationError as error:
        return _fail("; ".join(f"SERVICE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()))
    except BrokenPipeError:  # whoever reads the output has had enough
        sys.stderr.close()
        return 0


class Unreachable(Exception):
    """There is no server, or it is not one of ours."""


# What comes of reading another server's answer as if it were one of ours.
OTHER_SHAPE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _client(address: str) -> httpx.Client:
    key = os.environ.get(KEY, "")
    if not re.fullmatch(r"[!-~]*", key):
        raise Unreachable(f"the variable {KEY} holds what no API key holds: blanks, line ends, or characters that are not ASCII")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    trust_env = not address.startswith("http://127.0.0.1")
    try:
        return httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=trust_env)
    except httpx.InvalidURL as error:
        raise Unreachable(f"{address}: {error}") from error


def _warn_of_impossible(client: httpx.Client, stop: Sequence[str], model: str | None) -> None:
    """Names the stop strings that hold characters which the model lacks, if the server tells."""
    if not stop:
        return
    try:
        answer = client.post("/vectorize", json={"text": "".join(stop), "model": model}).json()
        unknown = {one["character"] for one in answer["unknown"]}
        for string in stop:
            if missing := [repr(character) for character in dict.fromkeys(string) if character in unknown]:
                lacks = f"{answer['model']} does not know {', '.join(missing)}"
                print(f"python -m service generate: --stop {string!r} cannot occur: {lacks}", file=sys.stderr)
    except (httpx.HTTPError, *OTHER_SHAPE):
        return  # what is wrong, the generation will tell


def _continue(client: httpx.Client, content: str) -> int:
    """Streams one generation; a stream that is cut is resumed after the last event that came whole."""
    headers = {"Content-Type": "application/json"}
    tries = TRIES
    while True:
        try:
            with client.stream("POST", "/generate", content=content, headers=headers) as response:
                if response.status_code in (429, 503) and "Last-Event-ID" in headers:
                    raise httpx.RemoteProtocolError(f"answered {response.status_code}")
                if response.status_code != 200:
                    return _fail(_refusal(response))
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise TypeError("its answer is no event stream")
                for name, data, headers["Last-Event-ID"] in _events(response.iter_raw()):
                    if name == "done":
                        return _receipt(data)
                    if name == "error":
                        return _fail(str(data["error"]["message"]))
                    sys.stdout.write(data["text"])
                    sys.stdout.flush()
                    tries = TRIES
            raise httpx.RemoteProtocolError("the stream stopped short")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            tries -= 1
            if "Last-Event-ID" not in headers or not tries:
                raise Unreachable(f"{_shown(client)}: {error}") from error
            time.sleep(2 ** (TRIES - tries) / 4)
        except OTHER_SHAPE as error:
            raise Unreachable(f"{_shown(client)}: not a Folio server") from error


def _refusal(response: httpx.Response) -> str:
    """The message of an error. Raises one of OTHER_SHAPE for an answer of another server."""
    message = json.loads(response.read())["error"]["message"]
    if not isinstance(message, str):
        raise TypeError(f"the message is {message!r}")
    return f"{message}; it is taken from the variable {KEY}" if response.status_code == 401 else message


def _shown(client: httpx.Client) -> str:
    return str(client.base_url).removesuffix("/")


def _events(chunks: Iterator[bytes]) -> Iterator[tuple[str, Any, str]]:
    """(Name, data, id) of each event. Split at line feeds only: text may hold other line ends."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if "data" in fields:
                yield fields.get("event", "message"), json.loads(fields["data"]), fields["id"]


def _receipt(done: dict[str, Any]) -> int:
    print(flush=True)
    usage, timings = done["usage"], done["timings"]
    print(
        f"{usage['generated_characters']:,} characters ({done['finish_reason']}), {timings['characters_per_second']:,.0f} a "
        f"second, by {done['model']} {done['version']} on {done['engine']} in {done['precision']}; seed {done['seed']}",
        file=sys.stderr,
    )
    return 0


@contextmanager
def _server(url: str | None, models_dir: str | None) -> Iterator[str]:
    """The address of the server that was named or is running, or else of one in this process for as long as it is needed."""
    if url or (models_dir is None and _answers(ADDRESS)):
        yield _root(url or ADDRESS)
        return
    logging.disable(logging.WARNING)
    own = {"slots": 1, "api_keys": "", "api_keys_file": None, "rate_limit": "", "tracing": False}  # whatever SERVICE_* says
    settings = Settings.model_validate(own if models_dir is None else own | {"models_dir": models_dir})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(settings)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            httpx.get(f"{address}/healthz", timeout=60, trust_env=False)  # answered once the application has its registry
            app.state.registry.wait_until_loaded()
            yield address
        finally:
            server.should_exit = True
            thread.join()


def _root(url: str) -> str:
    """The address without a slash at its end, or the /v1 that OpenAI's clients are given."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _answers(address: str) -> bool:
    try:
        return bool(httpx.get(f"{address}/healthz", timeout=2, trust_env=False).json() == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False


def _fail(message: str) -> int:
    sys.stdout.flush()
    print(f"\npython -m service generate: error: {message}", file=sys.stderr)
    return 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service generate", description=__doc__.partition(": ")[2])
    help_start = "the text to continue, as it is: for a line break write one, or $'ROMEO:\\n' in bash and zsh"
    parser.add_argument("start_string", metavar="START", help=help_start)
    parser.add_argument("--temperature", type=float, help="1 samples as trained, less is safer, 0 always the likeliest")
    parser.add_argument("--num-generate", type=int, metavar="N", help="characters to generate (default: 1000)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest characters only")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest likeliest that make up P")
    parser.add_argument("--min-p", type=float, metavar="P", help="draw only what is at least P times as likely as the likeliest")
    help_stop = r"end before this text; \n is a line break, \t a tab, \\ a backslash; may be given again"
    parser.add_argument("--stop", action="append", metavar="TEXT", type=_unescaped, help=help_stop)
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text")
    parser.add_argument("--pace", type=float, metavar="N", help="characters a second at most")
    parser.add_argument("--model", metavar="NAME", help="which model, where there are several")
    parser.add_argument("--url", help=f"a server's address (default: {ADDRESS} if it answers, else no server is needed)")
    parser.add_argument("--models-dir", metavar="DIR", help="generate from this folder, without a server")
    return parser.parse_args(arguments)


def _unescaped(text: str) -> str:
    return re.sub(r"\\[nt\\]", lambda pair: ESCAPES[pair[0]], text)
