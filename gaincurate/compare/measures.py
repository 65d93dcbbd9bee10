"""The path by which scripts of earlier versions import the document of a comparison."""

from gaincurate.compare.document import document

__all__ = ["document"]
