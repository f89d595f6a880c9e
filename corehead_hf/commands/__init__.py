"""Verbs of the command line that need more than a line: their options, and the text they end with."""
