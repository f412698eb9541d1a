"""A symmetric matrix that is known, as an operator that shows nothing but its products."""

from jaxtyping import Array, Float

from kpoison.curvature import Operator

__all__ = ["Dense"]


class Dense(Operator):
    """A matrix that is known."""

    matrix: Float[Array, "D D"]

    @property
    def dimension(self) -> int:
        return len(self.matrix)

    @property
    def dtype(self):
        return self.matrix.dtype

    def products(self, V):
        return self.matrix @ V

    def exact_trace(self):
        return None
