"""The paper's studies as functions: each takes a wrapped model and returns numbers."""
