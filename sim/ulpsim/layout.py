"""Where tensors lie in the activation scratchpad.

A tensor is channels-last: a pixel is `pixel_slots` consecutive slots, a row its pixels from left
to right, an image its rows. What is between rows and images is the border of zeros that padded
convolutions read: the columns left of a row serve as the columns right of the row above, the
rows below an image as those above the next. `fills` clears the borders; nothing else ever writes
there.

    border rows | border columns, row 0 | border columns, row 1 | ... | border rows | next image
"""

import dataclasses

from .config import CoreConfig
from .fusion import Tensor
from .isa import Instruction

__all__ = ["TensorLayout"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """One tensor, for `copies` images at a time, from slot `address` on.

    `even_rows` asks for rows that can be stored as whole words of the bus.
    """

    tensor: Tensor
    copies: int
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
        return self.row_slots + (self.row_slots % 2 if self.even_rows else 0)

    @property
    def row_pitch(self) -> int:
        """Slots from row to row."""
        pitch = self.stored_row_slots + self.tensor.border[1] * self.tensor.pixel_slots
        if self.tensor.row_residue is not None:
            pitch += (self.tensor.row_residue - pitch) % self.config.banks
        return pitch

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
