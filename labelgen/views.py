"""How a photo lies on the encoder's patch grid.

The photo is fitted into the grid: the side that fills it first takes the whole of it, the other as many whole patches
as its share asks for. The photo is resized to exactly those patches, so patch (i, j) of a valid grid [h', w'] covers
the photo's rows i H/h' ... (i+1) H/h' and its columns j W/w' ... (j+1) W/w'; what is beyond h', w' on the fixed grid
is outside the photo.
"""

from labelgen.errors import UserError
from labelgen.windows import HW


def fixed_grid(size_px: int, patch_px: int, height_px: int = 0) -> HW:
    """The patches h, w that every photo is fitted into: height_px (0: size_px) by size_px, multiples of patch_px.

    UserError when a side holds no whole number of patches.
    """
    check_patches("size_px", size_px, patch_px)
    if height_px:
        check_patches("height_px", height_px, patch_px)
    return (height_px or size_px) // patch_px, size_px // patch_px


def check_patches(field: str, px: int, patch_px: int) -> None:
    """UserError unless encoder.FIELD is a multiple of the patch."""
    if px < patch_px or px % patch_px:
        raise UserError(
            f"encoder.{field} = {px} is no multiple of the encoder's patch of {patch_px} px; "
            f"set {max(1, round(px / patch_px)) * patch_px}"
        )


def view_grid(size_hw: HW, size_px: int, patch_px: int, height_px: int = 0) -> tuple[HW, HW]:
    """(grid_hw, resized_hw): whole patches of a photo of size_hw px, and the px it is resized to for them.

    The grid is at most fixed_grid's and at least one patch a side. UserError as fixed_grid.
    """
    fixed_hw = fixed_grid(size_px, patch_px, height_px)
    fills = 0 if size_hw[0] * fixed_hw[1] >= size_hw[1] * fixed_hw[0] else 1
    h, w = (max(1, int(fixed_hw[fills] * side / size_hw[fills] + 0.5)) for side in size_hw)
    return (h, w), (h * patch_px, w * patch_px)
