"""Load by locust: locust --headless -f examples/locustfile.py -u 4 -r 4 -t 10s --host http://127.0.0.1:8000"""

from locust import HttpUser, task

PROMPT, CHARACTERS = "ROMEO: ", 100


class Reader(HttpUser):
    """Sends one request after another, of each kind."""

    @task
    def generate(self) -> None:
        self.client.post("/generate", json={"start_string": PROMPT, "num_generate": CHARACTERS})

    @task
    def stream(self) -> None:
        body = {"start_string": PROMPT, "num_generate": CHARACTERS, "stream": True}
        with self.client.post("/generate", name="/generate streamed", json=body, stream=True, catch_response=True) as response:
            if b"event: done" in response.content:
                response.success()
            else:
                response.failure("the stream did not end")

    @task
    def complete(self) -> None:
        self.client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": CHARACTERS})

    @task
    def chat(self) -> None:
        messages = [{"role": "user", "content": "Who art thou?"}]
        self.client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": CHARACTERS})
