"""/api/chat and /api/generate: Ollama's operations that write a text or calls of tools."""

from fastapi import APIRouter, Request, Response

from service.api.accept import MAX_REPLY, CompletionParams, accept, accept_chat
from service.api.body_route import JSON_TYPE, AnyTypeRoute, JsonBody, build_answer
from service.api.errors import OllamaErrorBody, error_responses
from service.api.job import Job
from service.api.json_text import to_json
from service.api.ollama.answer import NDJSON, Answer, OllamaChatResponse, OllamaGenerateResponse, stream_content, text_part
from service.api.ollama.requests import CommonFields, OllamaChatRequest, OllamaGenerateRequest
from service.api.sse import EventStream
from service.registry import Model
from service.settings import Settings

router = APIRouter(route_class=AnyTypeRoute)

RESPONSES = {200: {"content": stream_content()}, **error_responses(400, 404, 413, 415, 503, body=OllamaErrorBody)}


@router.post("/chat", response_model=OllamaChatResponse, responses=RESPONSES)
async def chat(request: Request, body: JsonBody[OllamaChatRequest]) -> Response:
    """Generates the assistant's next message. The model's chat template formats the messages; without one they become a play."""
    if not body.messages:
        return _loaded(request, body, chats=True)
    return await _answer(body, await accept_chat(request, body.conversation, _params(request, body)), chats=True)


@router.post("/generate", response_model=OllamaGenerateResponse, responses=RESPONSES)
async def generate(request: Request, body: JsonBody[OllamaGenerateRequest]) -> Response:
    """Answers a prompt as a user's message, or continues the prompt itself if `raw` is true."""
    if not body.prompt:
        return _loaded(request, body, chats=False)
    params = _params(request, body, body.prompt)
    job = accept(request, params) if body.raw else accept_chat(request, body.conversation, params)
    return await _answer(body, await job, chats=False)


def _params(request: Request, body: CommonFields, *prompts: str) -> CompletionParams:
    settings: Settings = request.app.state.settings
    options, most = body.options, settings.max_num_generate
    return CompletionParams(
        model=body.model,
        prompts=prompts,
        max_tokens=most if options.num_predict < 0 else options.num_predict or min(MAX_REPLY, most),
        sampling=options,
        stop=options.stop,
        seed=options.seed,
        logprobs=body.top_logprobs if body.logprobs else None,
        pace=options.pace,
        on_unknown=options.on_unknown or "skip",
        constraint=body.constraint,
        prompt_field="prompt" if prompts else "messages",
        max_tokens_field="options.num_predict",
        constraint_field="format",
    )


async def _answer(body: CommonFields, job: Job, *, chats: bool) -> Response:
    answer = Answer(job.submit(), chats=chats)
    if body.stream:
        return EventStream(job, answer, media_type=NDJSON, keep_alive=answer.keep_alive)
    with job:
        (chunk,) = await job.collect()
        logprobs = body.top_logprobs if body.logprobs else None
        return await build_answer(lambda: Response(answer.whole(chunk), media_type=JSON_TYPE), logprobs)


def _loaded(request: Request, body: CommonFields, *, chats: bool) -> Response:
    """The answer to a request without a text, by which clients load a model in advance."""
    model: Model = request.app.state.registry.get(body.model)
    part = text_part(model.config.name, "", chats=chats)
    return Response(to_json({**part, "done": True, "done_reason": "load"}), media_type=JSON_TYPE)
