"""How a photo lies on the encoder's patch grid.

The longest side takes the whole grid, the short side as many whole patches as its share asks for. The photo
is resized to exactly those patches, so patch (i, j) of a valid grid [h', w'] covers the photo's rows i H/h'
... (i+1) H/h' and its columns j W/w' ... (j+1) W/w'; what is beyond h', w' on the fixed square grid is
outside the photo.
"""

from labelgen.errors import UserError

HW = tuple[int, int]


def view_grid(size_hw: HW, size_px: int, patch_px: int) -> tuple[HW, HW]:
    """(grid_hw, resized_hw): whole patches of a photo of size_hw px, and the px it is resized to for them.

    size_px: longest side as the encoder sees it, a multiple of patch_px; the grid is at most size_px /
    patch_px a side and at least one patch. UserError when size_px holds no whole number of patches.
    """
    if size_px < patch_px or size_px % patch_px:
        raise UserError(
            f"encoder.size_px = {size_px} is no multiple of the encoder's patch of {patch_px} px; "
            f"set {max(1, round(size_px / patch_px)) * patch_px}"
        )
    most, longest = size_px // patch_px, max(size_hw)
    h, w = (max(1, int(most * side / longest + 0.5)) for side in size_hw)
    return (h, w), (h * patch_px, w * patch_px)
