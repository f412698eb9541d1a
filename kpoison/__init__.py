"""Exact, differentiable theory of data poisoning in the kernel and NTK regime.

Rooms and names load where they are first used (PEP 562, SPEC 1); which there are stands in `__init__.pyi`.
"""

import lazy_loader

from kpoison._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
