"""Who may ask, and how much, by real requests."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.support import ENDLESS, publish, serving, wait_until

KEY, OTHER = "correct-horse-battery", "staple-staple-staple"
BODY = {"start_string": "a", "num_generate": 5}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish(folder)
    return folder


@pytest.fixture(scope="module")
def keyed(models: Path) -> Iterator[httpx.Client]:
    """A server with two keys, one of them in a file."""
    file = models.with_suffix(".keys")
    file.write_text(f"# who may ask\n\n{OTHER}  # the other\n")
    with serving(Settings.model_validate({"models_dir": models, "api_keys": KEY, "api_keys_file": file})) as (_, client):
        yield client


PROTECTED = [
    ("POST", "/generate"), ("GET", "/generate?start_string=a"), ("POST", "/score"), ("POST", "/vectorize"), ("GET", "/models"),
    ("GET", "/models/tiny"), ("GET", "/models/tiny/loss.png"), ("GET", "/v1/models/tiny"),
    ("GET", "/models/tiny/sample.txt"), ("GET", "/models/tiny/tokenizer.json"), ("GET", "/models/tiny/tokenizer_config.json"),
    ("HEAD", "/models"), ("POST", "/generate/"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/what-is-not-there"), ("POST", "/v1/embeddings"), ("POST", "/tokenize"),
    ("POST", "/detokenize"), ("GET", "/tokenizer_info"), ("GET", "/version"), ("POST", "/v1/responses"),
    ("POST", "/v1/responses/input_tokens"),
    *(("POST", f"/api/{name}") for name in ("chat", "generate", "embed", "embeddings", "show")),
    *(("GET", f"/api/{name}") for name in ("tags", "ps", "version")),
    ("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"),
]  # fmt: skip


@pytest.mark.slow
def test_every_operation_is_protected_or_meant_to_be_free(keyed: httpx.Client) -> None:
    free = {"/healthz", "/readyz"}
    documented = set(keyed.get("/openapi.json").json()["paths"]) - free
    asked = {path.partition("?")[0].replace("tiny", "{name}") for _, path in PROTECTED}
    assert documented <= asked
    for path in (*free, "/", "/web/app.js", "/docs", "/openapi.json"):
        assert keyed.get(path).status_code == 200, path


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_without_a_key_nothing_is_told(keyed: httpx.Client, method: str, path: str) -> None:
    response = keyed.request(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="folio"'
    if method == "HEAD":
        return
    if path.startswith(("/v1/messages", "/api/")):  # formats of their own, which have no codes
        assert "API key" in str(response.json()["error"])
    else:
        assert response.json()["error"]["code"] == "missing_api_key"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"X-API-Key": OTHER.upper()},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"}, {"X-API-Key": "# who may ask"},
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_from_none(keyed: httpx.Client, headers: dict[str, str]) -> None:
    response = keyed.post("/generate", json=BODY, headers=headers)
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {OTHER}"}, {"X-API-Key": KEY}])
def test_each_key_opens_by_either_header(keyed: httpx.Client, headers: dict[str, str]) -> None:
    assert keyed.post("/generate", json=BODY, headers=headers).status_code == 200


def test_a_basic_authorization_is_no_key(keyed: httpx.Client) -> None:
    response = keyed.post("/generate", json=BODY, headers={"Authorization": f"Basic {KEY}"})
    assert response.json()["error"]["code"] == "missing_api_key"


def test_openais_client_brings_its_key(keyed: httpx.Client) -> None:
    from openai import AuthenticationError, OpenAI

    address = f"{keyed.base_url}/v1"
    with OpenAI(base_url=address, api_key=KEY) as client:
        assert client.models.list().data[0].id == "tiny"
    with OpenAI(base_url=address, api_key="none", max_retries=0) as client, pytest.raises(AuthenticationError, match="API key"):
        client.models.list()


def test_a_body_nobody_reads_is_not_waited_for(keyed: httpx.Client) -> None:
    response = keyed.post("/generate", content=b"x" * 100_000)
    assert response.status_code == 401
    assert response.headers["connection"] == "close"


def test_a_rate_holds_for_each_key_and_says_when_to_come_again(models: Path) -> None:
    keys = f"{KEY},{OTHER}"
    settings = Settings.model_validate({"models_dir": models, "api_keys": keys, "rate_limit": "1000/second;3/day"})
    with serving(settings) as (_, client):
        answers = [client.post("/generate", json=BODY, headers={"X-API-Key": KEY}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["error"] == {
            "code": "rate_limited",
            "message": f"the rate limit of 3 per 1 day is exceeded; try again in {answers[-1].headers['retry-after']} s",
            "type": "rate_limit_error",
            "param": None,
        }
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 86_400
        assert client.post("/generate", json=BODY, headers={"X-API-Key": OTHER}).status_code == 200
        assert client.get("/models", headers={"X-API-Key": KEY}).status_code == 429, "all that needs a key counts"
        assert client.get("/healthz").status_code == 200


def test_a_wrong_key_uses_up_nobodys_rate(models: Path) -> None:
    settings = Settings.model_validate({"models_dir": models, "api_keys": KEY, "rate_limit": "1/day"})
    with serving(settings) as (_, client):
        for _ in range(3):
            assert client.get("/models", headers={"X-API-Key": "x"}).status_code == 401
        assert client.get("/models", headers={"X-API-Key": KEY}).status_code == 200


def test_a_client_has_only_so_many_requests_open_at_a_time(models: Path) -> None:
    settings = Settings.model_validate(
        {"models_dir": models, "api_keys": f"{KEY} {OTHER}", "max_open": 2, "slots": 4, "max_num_generate": ENDLESS["num_generate"]}
    )
    mine, other = {"X-API-Key": KEY}, {"X-API-Key": OTHER}
    with serving(settings) as (_, client):
        with (
            client.stream("POST", "/generate", json=ENDLESS, headers=mine),
            client.stream("POST", "/generate", json=ENDLESS, headers=mine),
        ):
            response = client.post("/generate", json=BODY, headers=mine)
            assert (response.status_code, response.json()["error"]["code"]) == (429, "too_many_open")
            assert response.headers["retry-after"] == "1"
            assert client.post("/generate", json=BODY, headers=other).status_code == 200
        wait_until(lambda: client.post("/generate", json=BODY, headers=mine).status_code == 200)
        assert [client.post("/generate", json=BODY, headers=mine).status_code for _ in range(4)] == [200] * 4


def test_pages_of_other_origins_may_not_call_unless_that_is_set(models: Path) -> None:
    named = "authorization,content-type,x-api-key,x-stainless-arch,x-stainless-retry-count,user-agent"
    ask = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": named}
    with serving(Settings(models_dir=models)) as (_, client):
        assert not [name for name in client.options("/generate", headers=ask).headers if name.startswith("access-control")]
        assert "access-control-allow-origin" not in client.post("/generate", json=BODY, headers=ask).headers
    settings = {"models_dir": models, "cors_origins": "https://example.org,http://localhost:3000", "api_keys": KEY}
    with serving(Settings.model_validate(settings)) as (_, client):
        allowed = client.options("/generate", headers=ask)
        assert allowed.status_code == 200, "a preflight brings no key"
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        assert allowed.headers["access-control-allow-headers"] == ask["Access-Control-Request-Headers"]
        refused = client.post("/generate", json=BODY, headers=ask)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://example.org", "so that the page can read the error"
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
        foreign = client.options("/generate", headers=ask | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (400, "cors_refused")
        assert "--cors-origins" in foreign.json()["error"]["message"]


def test_the_page_runs_nothing_foreign_and_in_nobodys_frame(keyed: httpx.Client) -> None:
    for path in ("/", "/web/app.js"):
        headers = keyed.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'", "and nothing that is more: no script-src, no unsafe-inline"
        assert not policy.keys() & {"script-src", "style-src"}
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
