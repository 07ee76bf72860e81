"""Which rule makes a coarser level of an array: decided by path and dtype, never by the variable's name alone.

A mask that is called ``b02`` is a bit field, not a reflectance (see the value traps in ``docs/architecture.md``).
"""

from typing import Literal

Rule = Literal["average", "mode", "or", "nearest"]
"""How the pixels below a coarser one make it.

``average``: mean of valid values, rounded half to even; ``mode``: most frequent class but 0 (no data), which wins only where it
is alone, of equally frequent ones the smallest; ``or``: union of bits; ``nearest``: the pixel in the middle, of an even number
the lower right one.
"""


def level_rule(path: str) -> Rule:
    """Return the rule that makes coarser levels of the array at ``path`` (``group/.../name``, no leading slash)."""
    if path.startswith("measurements/"):
        return "average"
    if path.startswith(("quality/mask/", "conditions/mask/l1c_classification/")):
        return "or"
    if path.startswith("conditions/mask/l2a_classification/"):
        return "mode"
    if path.startswith(("quality/probability/", "quality/atmosphere/")):
        return "average"
    return "nearest"
