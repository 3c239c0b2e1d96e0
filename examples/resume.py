"""Cuts a stream, and resumes it after the last event that arrived. Any server that has the version can resume it."""

import json

import httpx

URL = "http://127.0.0.1:8000"
BODY = {"start_string": "ROMEO: ", "num_generate": 300, "seed": 1, "stream": True}


def read(last_event_id: str | None, most: int) -> tuple[str, str | None]:
    """The text of the first `most` events after `last_event_id`, and the id of the last one."""
    text, rest, count = "", "", 0
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with httpx.stream("POST", f"{URL}/generate", json=BODY, headers=headers, timeout=60) as response:
        response.raise_for_status()
        for chunk in response.iter_text():
            *blocks, rest = (rest + chunk).split("\n\n")
            for block in blocks:
                fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
                if count == most or fields.get("event") == "done":
                    return text, last_event_id
                if fields.get("event") == "error":
                    raise SystemExit(json.loads(fields["data"])["error"]["message"])
                if "data" in fields:
                    text, last_event_id, count = text + json.loads(fields["data"])["text"], fields["id"], count + 1
    return text, last_event_id


first, last_event_id = read(None, most=2)  # then the connection is lost
second, _ = read(last_event_id, most=1_000)
print(f"{len(first)} characters, then {len(second)}:", first + second, sep="\n")
