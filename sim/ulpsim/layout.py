"""Where tensors lie in the activation scratchpad.

A tensor is channels-last: a pixel is `pixel_slots` consecutive slots, a row its pixels from left
to right, an image its rows. What is between rows and images is the border of zeros that padded
convolutions read: the columns left of a row serve as the columns right of the row above, the
rows below an image as those above the next. `fills` clears the borders; nothing else ever writes
there.

    border rows | border columns, row 0 | border columns, row 1 | ... | border rows | next image

A stripe is some rows of a tensor that is larger than the scratchpad. It has border columns of
the same kind; border rows are rows of the stripe that are cleared instead of loaded.
"""

import dataclasses
from typing import Protocol

from .config import CoreConfig
from .fusion import Tensor
from .isa import Instruction

__all__ = ["Layout", "StripeLayout", "TensorLayout", "TransposedStripe"]


class Layout(Protocol):
    """Where the pixels of a tensor lie: all that instructions need to know."""

    @property
    def tensor(self) -> Tensor: ...

    @property
    def row_pitch(self) -> int: ...

    @property
    def image_pitch(self) -> int: ...

    def slot(self, image: int, y: int, x: int) -> int: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of a tensor from slot `address` on, with columns of border between them.

    `even_rows` asks for rows that can be stored as whole words of the bus.
    """

    tensor: Tensor
    address: int
    config: CoreConfig
    even_rows: bool = False

    @property
    def row_slots(self) -> int:
        """Slots of a row's pixels."""
        return self.tensor.shape[1] * self.tensor.pixel_slots

    @property
    def stored_row_slots(self) -> int:
        """`row_slots`, rounded up to the bus if `even_rows`."""
        return self.row_slots + (-self.row_slots % self.config.bus_slots if self.even_rows else 0)

    @property
    def row_pitch(self) -> int:
        """Slots from row to row."""
        pitch = self.stored_row_slots + self.tensor.border[1] * self.tensor.pixel_slots
        if self.tensor.row_residue is not None:
            pitch += (self.tensor.row_residue - pitch) % self.tensor.row_modulus
        return pitch


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorLayout(_Rows):
    """One tensor, for `copies` images at a time."""

    copies: int

    @property
    def image_rows(self) -> int:
        """Rows from image to image."""
        return self.tensor.shape[0] + self.tensor.border[0]

    @property
    def image_pitch(self) -> int:
        """Slots from image to image."""
        return self.image_rows * self.row_pitch

    @property
    def size(self) -> int:
        """Slots in all."""
        rows = self.tensor.border[0] + self.copies * self.image_rows
        return rows * self.row_pitch + self.tensor.border[1] * self.tensor.pixel_slots

    def slot(self, image: int, y: int, x: int) -> int:
        """First slot of a pixel; y and x may be in the border. Images take turns at the copies."""
        rows = self.tensor.border[0] + image % self.copies * self.image_rows + y
        return (self.address + rows * self.row_pitch
                + (self.tensor.border[1] + x) * self.tensor.pixel_slots)

    def fills(self) -> list[Instruction]:
        """Instructions that clear all that is not a pixel and is read."""
        border_rows, border_columns = self.tensor.border
        border = border_columns * self.tensor.pixel_slots
        rows = border_rows + self.copies * self.image_rows
        after = self.row_pitch - border - self.row_slots
        gap = after + border
        if self.tensor.gap:
            return [Instruction("FILL", address=self.address, length=self.size)]
        instructions = []
        if border_rows:
            instructions.append(Instruction(
                "FILL", address=self.address, rows=self.copies + 1,
                length=border_rows * self.row_pitch, pitch=self.image_pitch))
        elif border:
            instructions.append(Instruction("FILL", address=self.address, length=border))
        if gap and (border or self.stored_row_slots > self.row_slots):
            instructions.append(Instruction(
                "FILL", address=self.address + border + self.row_slots, rows=rows, length=gap,
                pitch=self.row_pitch))
        return instructions


@dataclasses.dataclass(frozen=True, kw_only=True)
class StripeLayout(_Rows):
    """`rows` rows from `first_row` on of `images` images from `first_image` on.

    `tensor.border` holds the border columns; rows may lie above or below the tensor.
    """

    first_image: int
    images: int
    first_row: int
    rows: int

    @property
    def image_pitch(self) -> int:
        """Slots from image to image."""
        return self.rows * self.row_pitch

    @property
    def size(self) -> int:
        """Slots in all."""
        return self.images * self.image_pitch + self.tensor.border[1] * self.tensor.pixel_slots

    def slot(self, image: int, y: int, x: int) -> int:
        """First slot of a pixel; x may be in the border."""
        row = (image - self.first_image) * self.rows + y - self.first_row
        return (self.address + row * self.row_pitch
                + (self.tensor.border[1] + x) * self.tensor.pixel_slots)

    def outside(self) -> list[tuple[int, int]]:
        """(first, count) of the rows, counted from the first one, above and below the tensor."""
        above = min(max(0, -self.first_row), self.rows)
        below = min(max(0, self.first_row + self.rows - self.tensor.shape[0]), self.rows)
        return [part for part in ((0, above), (self.rows - below, below)) if part[1]]

    def column_fills(self) -> list[Instruction]:
        """Instructions that clear what is between rows."""
        border = self.tensor.border[1] * self.tensor.pixel_slots
        gap = self.row_pitch - self.row_slots
        if self.tensor.gap:
            return [Instruction("FILL", address=self.address, length=self.size)]
        instructions = []
        if border:
            instructions.append(Instruction("FILL", address=self.address, length=border))
        if gap and (border or self.stored_row_slots > self.row_slots):
            instructions.append(Instruction(
                "FILL", address=self.address + border + self.row_slots,
                rows=self.images * self.rows, length=gap, pitch=self.row_pitch))
        return instructions

    def row_fill(self, first: int, count: int) -> Instruction:
        """An instruction that clears rows of every image, counted from the stripe's first one."""
        return Instruction(
            "FILL", address=self.address + first * self.row_pitch, rows=self.images,
            length=count * self.row_pitch, pitch=self.image_pitch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransposedStripe:
    """A stripe of a matrix that is read across its rows: `row_slots` slots of every row, from slot
    `first_row` on. What is a row to the product is a slot of each of them.

    Rows lie one slot more than a multiple of the residues apart, so that the slots of a vector, one
    from each of as many rows, lie in different banks; `most_slots` is the most that any stripe
    has of a row.
    """

    tensor: Tensor
    first_row: int
    row_slots: int
    most_slots: int
    address: int
    config: CoreConfig

    row_pitch = 1
    image_pitch = 0
    images = 1

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return self.tensor.shape[0]

    @property
    def run_pitch(self) -> int:
        """Slots from row to row of the matrix."""
        residues = self.config.residues
        return -(-(self.most_slots - 1) // residues) * residues + 1

    @property
    def size(self) -> int:
        """Slots in all."""
        return self.rows * self.run_pitch

    def slot(self, image: int, y: int, x: int) -> int:
        """The slot of row y of the product in the first row of the matrix; x is 0."""
        return self.address + y - self.first_row
