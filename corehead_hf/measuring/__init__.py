"""The parts of a measuring run: what is measured together, what is kept on disk, and when to stop."""

from corehead_hf.measuring.shards import read_measured

__all__ = ["read_measured"]
