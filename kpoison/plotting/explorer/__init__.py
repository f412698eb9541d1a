"""Results to look at in a browser: one page that holds the numbers, and draws whatever part of them is asked for."""

from kpoison.plotting.explorer._page import LARGEST, Explorer, explore

__all__ = ["LARGEST", "Explorer", "explore"]
