"""smolagents' agents. The model writes verse, so the agent that writes code ends at its last step, with a text."""

from typing import Any

from smolagents import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION


def model_of(server: Server, seed: int, length: int) -> OpenAIServerModel:
    return OpenAIServerModel(model_id=server.model, api_base=server.v1, api_key=KEY, max_tokens=length, seed=seed)


@tool
def get_forecast(city: str, days: int) -> str:
    """Returns the weather in a city.

    Args:
        city: the name of the city
        days: how many days ahead
    """
    return f"{city}: rain in {days} days"


def test_a_code_agent_ends_and_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[Any, int]:
        agent = CodeAgent(tools=[], model=model_of(server, 7, LENGTH), max_steps=2, verbosity_level=0)
        return agent.run(QUESTION), len(agent.memory.steps)

    text, steps = run()
    assert text
    assert steps == 4, "the task, two steps and the answer"
    assert run() == (text, steps)


def test_a_tool_calling_agent_calls_and_answers_and_twice_with_the_same_text(server: Server) -> None:
    """It requires a call at each step, and gives its answer by one too. Which one is chosen depends on the seed."""

    def run(seed: int) -> tuple[Any, list[str]]:
        agent = ToolCallingAgent(tools=[get_forecast], model=model_of(server, seed, 400), max_steps=3, verbosity_level=0)
        answer = agent.run(QUESTION)
        steps = [step for step in agent.memory.steps if getattr(step, "tool_calls", None)]
        return answer, [call.name for step in steps for call in step.tool_calls]

    runs = [run(seed) for seed in range(6)]
    assert {name for _, names in runs for name in names} == {"get_forecast", "final_answer"}
    assert all(answer for answer, _ in runs)
    assert [run(seed) for seed in range(6)] == runs
