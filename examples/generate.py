"""Generates a text in this process, without a server."""

from service.generation.generator import Generator

generator = Generator.load("models/shakespeare")
print(generator.generate("ROMEO: ", temperature=0.8, seed=1))
