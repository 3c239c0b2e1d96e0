"""OpenAI's client with Folio: pip install openai. A token is a character."""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")  # a key, where the server has keys

answer = client.completions.create(model="shakespeare", prompt="ROMEO: ", max_tokens=200, n=2, seed=1)
for choice in answer.choices:
    print(choice.text, end="\n\n")

# A chat becomes a play: the speaker's name in capitals, a colon, a line break, the words.
# Options that OpenAI does not have go into extra_body. `pace` is in characters a second.
chunks = client.chat.completions.create(
    model="shakespeare",
    messages=[{"role": "user", "name": "Juliet", "content": "Wherefore art thou Romeo?"}],
    max_tokens=300,
    stream=True,
    extra_body={"pace": 2000, "top_k": 20},
)
for chunk in chunks:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
