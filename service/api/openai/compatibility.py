"""Fields that clients send to other servers, and that change nothing here."""

from typing import Annotated, Any

from service.api.fields import Only, SamplingFields, Unsupported, Unused


class CompatibilityFields(SamplingFields):
    """Fields of OpenAI, vLLM and llama.cpp that are ignored, accepted only at values that change nothing, or rejected by name."""

    # OpenAI; a chat has the fields of tools
    function_call: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    metadata: Unused = None
    modalities: Annotated[Any, Only(["text"], [])] = None
    moderation: Unsupported = None
    parallel_tool_calls: Unused = None
    prediction: Unused = None  # a hint for speed
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None
    reasoning_effort: Unused = None
    safety_identifier: Unused = None
    service_tier: Annotated[Any, Only("auto", "default")] = None
    store: Annotated[Any, Only(False)] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    tools: Annotated[Any, Only([])] = None
    user: Unused = None
    verbosity: Unused = None
    web_search_options: Unsupported = None

    # vLLM; load tools send them
    add_special_tokens: Unused = None
    allowed_token_ids: Unsupported = None
    best_of: Annotated[Any, Only(1)] = None
    bad_words: Annotated[Any, Only([])] = None
    cache_salt: Unused = None
    chat_template: Unsupported = None
    chat_template_kwargs: Unused = None
    detokenize: Annotated[Any, Only(True)] = None
    documents: Annotated[Any, Only([])] = None
    early_stopping: Annotated[Any, Only(False)] = None
    include_stop_str_in_output: Annotated[Any, Only(False)] = None
    length_penalty: Annotated[Any, Only(1)] = None
    priority: Annotated[Any, Only(0)] = None
    prompt_logprobs: Unsupported = None
    request_id: Unused = None
    return_token_ids: Annotated[Any, Only(False)] = None
    return_tokens_as_token_ids: Annotated[Any, Only(False)] = None
    skip_special_tokens: Unused = None
    spaces_between_special_tokens: Unused = None
    stop_token_ids: Annotated[Any, Only([])] = None
    truncate_prompt_tokens: Unsupported = None
    use_beam_search: Annotated[Any, Only(False)] = None

    # llama.cpp
    cache_prompt: Unused = None
    mirostat: Annotated[Any, Only(0)] = None
    repeat_penalty: Annotated[Any, Only(1)] = None
    typical_p: Annotated[Any, Only(1)] = None
