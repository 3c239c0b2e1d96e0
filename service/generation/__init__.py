"""Knows characters and slots, nothing of HTTP."""

import sys

# Importing openvino reports to its makers, from a forked process that can hang this one. Without that package it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
