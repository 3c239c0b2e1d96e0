"""smolagents' agent that writes code. The model writes verse, so the agent ends at its last step, with a text."""

from smolagents import CodeAgent, OpenAIServerModel

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED


def test_a_code_agent_ends_and_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[str, int]:
        model = OpenAIServerModel(model_id=server.model, api_base=server.v1, api_key=KEY, max_tokens=LENGTH, seed=SEED)
        agent = CodeAgent(tools=[], model=model, max_steps=2, verbosity_level=0)
        return agent.run(QUESTION), len(agent.memory.steps)

    text, steps = run()
    assert text
    assert steps == 4, "the task, two steps and the answer"
    assert run() == (text, steps)
