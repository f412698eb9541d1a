"""Long work that survives a kill: cut into chunks, kept as it goes on, divided among processes."""

from kpoison.resumable.chunked import ChunkedWork, ProgressBar
from kpoison.resumable.storage import ChunkStore, Pieces, Variable

__all__ = ["ChunkStore", "ChunkedWork", "Pieces", "ProgressBar", "Variable"]
