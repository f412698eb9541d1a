"""Measurements of what kpoison claims about accuracy, speed and memory."""
