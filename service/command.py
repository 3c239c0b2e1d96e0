"""python -m service generate: a start string continued on the terminal, by a running server or, without one, in this process."""

import argparse
import io
import json
import logging
import os
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
TRIES = 5  # to go on with a stream that was cut, after 1/2, 1, 2 and 4 seconds


def generate(arguments: Sequence[str]) -> int:
    """Writes start string and continuation to stdout as they come, the receipt to stderr. 0; 1 where it fails; 130 for Ctrl-C."""
    options = _options(arguments)
    fields = {name: value for name, value in vars(options).items() if name not in ("url", "models_dir") and value is not None}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack some of a text's characters
    try:
        content = json.dumps({**fields, "stream": True, "echo": True}, allow_nan=False)
        content.encode()
        options.start_string.encode()
    except UnicodeEncodeError:
        return _fail("START is not text in UTF-8")
    except ValueError:
        return _fail("an option is not a finite number")
    try:
        with _server(options.url, options.models_dir) as address:
            return _continue(address, content)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except Unreachable as error:
        return _fail(str(error))
    except ValidationError as error:
        return _fail("; ".join(f"SERVICE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()))
    except BrokenPipeError:  # whoever reads the output has had enough
        sys.stderr.close()
        return 0


class Unreachable(Exception):
    """There is no server, or it is not one of ours."""


def _continue(address: str, content: str) -> int:
    """Streams one generation; a stream that is cut is resumed after the last event that came whole."""
    headers = {"Content-Type": "application/json"}
    if KEY in os.environ:
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    tries = TRIES
    with httpx.Client(timeout=60, trust_env=not address.startswith("http://127.0.0.1")) as client:
        while True:
            try:
                with client.stream("POST", f"{address}/generate", content=content, headers=headers) as response:
                    if response.status_code in (429, 503) and "Last-Event-ID" in headers:
                        raise httpx.RemoteProtocolError(f"answered {response.status_code}")
                    if response.status_code == 401:
                        return _fail(f"{json.loads(response.read())['error']['message']}; it is taken from the variable {KEY}")
                    if response.status_code != 200:
                        return _fail(json.loads(response.read())["error"]["message"])
                    for name, data, headers["Last-Event-ID"] in _events(response.iter_raw()):
                        if name == "done":
                            return _receipt(data)
                        if name == "error":
                            return _fail(data["error"]["message"])
                        sys.stdout.write(data["text"])
                        sys.stdout.flush()
                        tries = TRIES
                raise httpx.RemoteProtocolError("the stream stopped short")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                tries -= 1
                if "Last-Event-ID" not in headers or not tries:
                    raise Unreachable(f"{address}: {error}") from error
                time.sleep(2 ** (TRIES - tries) / 4)
            except (ValueError, LookupError) as error:
                raise Unreachable(f"{address}: not a server of this kind: {error!r}") from error


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
        yield url or ADDRESS
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
            app.state.registry.looked.wait()
            yield address
        finally:
            server.should_exit = True
            thread.join()


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
    parser.add_argument("start_string", metavar="START", help="the text to go on from")
    parser.add_argument("--temperature", type=float, help="1 samples as trained, less is safer, 0 always the likeliest")
    parser.add_argument("--num-generate", type=int, metavar="N", help="characters to generate (default: 1000)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest characters only")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest likeliest that make up P")
    parser.add_argument("--min-p", type=float, metavar="P", help="draw only what is at least P times as likely as the likeliest")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be given again")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text")
    parser.add_argument("--pace", type=float, metavar="N", help="characters a second at most")
    parser.add_argument("--model", metavar="NAME", help="which model, where there are several")
    parser.add_argument("--url", help=f"a server's address (default: {ADDRESS} if it answers, else no server is needed)")
    parser.add_argument("--models-dir", metavar="DIR", help="generate from this folder, without a server")
    return parser.parse_args(arguments)
