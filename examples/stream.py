"""Streams a text: .venv/bin/python examples/stream.py "ROMEO: " """

import json
import sys
from collections.abc import Iterator

import httpx

URL = "http://127.0.0.1:8000"


def events(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The fields of each server-sent event. Events end with an empty line; text may hold other line ends, so split at \\n only."""
    rest = ""
    for chunk in response.iter_text():
        *blocks, rest = (rest + chunk).split("\n\n")
        for block in blocks:
            yield dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))


def main() -> None:
    start_string = sys.argv[1] if len(sys.argv) > 1 else "ROMEO: "
    body = {"start_string": start_string, "temperature": 0.8, "num_generate": 500, "stream": True}
    with httpx.stream("POST", f"{URL}/generate", json=body, timeout=60) as response:
        if response.is_error:
            sys.exit(response.read().decode())
        for event in events(response):
            data = json.loads(event.get("data", "{}"))
            if event.get("event") == "error":
                sys.exit(data["error"]["message"])
            print(data.get("text", ""), end="", flush=True)
    print()


if __name__ == "__main__":
    main()
