"""OpenAI's Agents SDK with its model for chat completions."""

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, QUESTION, SEED, reply
from tests.clients.tools import CALL, Forecast, Weather


def model_of(server: Server) -> OpenAIChatCompletionsModel:
    client = AsyncOpenAI(base_url=server.v1, api_key=KEY)
    return OpenAIChatCompletionsModel(model=server.model, openai_client=client)


def test_an_agent_answers(server: Server) -> None:
    agent = Agent(
        name="Juliet",
        instructions="Speak in verse.",
        model=model_of(server),
        model_settings=ModelSettings(temperature=0, max_tokens=LENGTH),
    )
    expected = reply(server, [{"role": "system", "content": "Speak in verse."}, *MESSAGES], temperature=0)
    assert Runner.run_sync(agent, QUESTION).final_output == expected


def test_an_output_type_is_returned(server: Server) -> None:
    agent = Agent(name="Juliet", model=model_of(server), output_type=Weather)
    assert isinstance(Runner.run_sync(agent, QUESTION).final_output, Weather)


def test_an_agent_calls_its_tool_and_ends_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], list[str], str]:
        tool = Forecast()
        settings = ModelSettings(max_tokens=400, extra_headers=CALL, extra_body={"seed": SEED})
        agent = Agent(name="Juliet", model=model_of(server), tools=[function_tool(tool.forecast)], model_settings=settings)
        answer = Runner.run_sync(agent, QUESTION)
        return tool.calls, [item.type for item in answer.new_items], answer.final_output

    calls, items, text = run()
    assert len(calls) == 1
    assert items == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert text
    assert run() == (calls, items, text)
