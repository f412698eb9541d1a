"""Image triggers: how the attacker marks an image, so that the poisoned predictor gives it the target class.

Each is a map x ↦ Wx + b of the image, after which pixels may be clipped.
"""

from kpoison.poison.triggers.additive import Additive
from kpoison.poison.triggers.blend import Blend
from kpoison.poison.triggers.contract import Trigger
from kpoison.poison.triggers.patch import Patch
from kpoison.poison.triggers.sinusoid import Sinusoid
from kpoison.poison.triggers.warp import Warp

__all__ = ["Additive", "Blend", "Patch", "Sinusoid", "Trigger", "Warp"]
