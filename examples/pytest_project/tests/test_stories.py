"""The fixture `folio` comes with the package folio-rnn. It starts one server for all tests."""

import json
import urllib.request

from stories import tell

from folio_pytest import FolioServer


def test_a_story_is_the_same_again(folio: FolioServer) -> None:
    with folio.openai_client() as client:
        first, second = (list(tell(client, "ROMEO:")) for _ in range(2))
    assert len("".join(first)) == 100
    assert "".join(first) == "".join(second), "the fixture's seed is 0"


def test_any_http_client_can_be_used(folio: FolioServer) -> None:
    body = json.dumps({"start_string": "JULIET:", "num_generate": 20}).encode()
    request = urllib.request.Request(f"{folio.base_url}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        assert len(json.load(response)["text"]) == len("JULIET:") + 20
