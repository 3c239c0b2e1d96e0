"""Fields that clients send to other servers, which are ignored here or refused by name."""

from typing import Annotated, Any

from service.api.fields import SamplingFields, Unsupported, Unused, only


class OpenAIFields(SamplingFields):
    """OpenAI's fields that all its operations on texts have, which are ignored or refused by name."""

    metadata: Unused = None
    moderation: Unsupported = None
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None
    safety_identifier: Unused = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    user: Unused = None


class CompatibilityFields(OpenAIFields):
    """Fields of OpenAI, vLLM and llama.cpp that are ignored, accepted only at values that change nothing, or rejected by name."""

    # OpenAI; a chat has the fields of tools
    function_call: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    modalities: Annotated[Any, only(["text"], [])] = None
    parallel_tool_calls: Unused = None
    prediction: Unused = None  # a hint for speed
    reasoning_effort: Unused = None
    store: Annotated[Any, only(False)] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    tools: Annotated[Any, only([])] = None
    verbosity: Unused = None
    web_search_options: Unsupported = None

    # vLLM; load tools send them
    add_special_tokens: Unused = None
    allowed_token_ids: Unsupported = None
    best_of: Annotated[Any, only(1)] = None
    bad_words: Annotated[Any, only([])] = None
    cache_salt: Unused = None
    chat_template: Unsupported = None
    chat_template_kwargs: Unused = None
    detokenize: Annotated[Any, only(True)] = None
    documents: Annotated[Any, only([])] = None
    early_stopping: Annotated[Any, only(False)] = None
    include_stop_str_in_output: Annotated[Any, only(False)] = None
    length_penalty: Annotated[Any, only(1)] = None
    priority: Annotated[Any, only(0)] = None
    prompt_logprobs: Unsupported = None
    request_id: Unused = None
    return_token_ids: Annotated[Any, only(False)] = None
    return_tokens_as_token_ids: Annotated[Any, only(False)] = None
    skip_special_tokens: Unused = None
    spaces_between_special_tokens: Unused = None
    stop_token_ids: Annotated[Any, only([])] = None
    truncate_prompt_tokens: Unsupported = None
    use_beam_search: Annotated[Any, only(False)] = None

    # llama.cpp
    cache_prompt: Unused = None
    mirostat: Annotated[Any, only(0)] = None
    repeat_penalty: Annotated[Any, only(1)] = None
    typical_p: Annotated[Any, only(1)] = None
