"""Views of the pictures of a batch: whole or in part, mirrored, lit and blurred at random.

Nothing here waits for the device: no branch and no size depends on a value.
"""

import torch
from names import INPUT, KINDS, MASKS
from network import FINE
from torch import Tensor
from torch.nn import functional

WHOLE = 0.45  # part of the pictures that are seen whole
SMALLEST_PART = 0.3  # of width and height of a picture
BEYOND = 0.1  # part of the pictures in which the mount is made to reach past the far border
BARELY_SEEN = 0.4  # part of these in which the tip is just inside of the border
INVERTED, SHADED, BLURRED, BENT = 0.07, 0.3, 0.25, 0.25  # parts of the pictures
RELIT, RESTYLED = 0.3, 0.3  # parts of the pictures
KERNEL_PX = 9  # size of the kernels


def views(gray: Tensor, bits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures, masks and numbers as the network is to see them.

    Parameters
    ----------
    gray
        (N, H, W) uint8.
    bits
        (N, h, w) uint8, one bit for each mask.
    numbers
        (N, 14) float32, of `sample.packed`.

    Returns
    -------
    (N, 1, 128, 192) float32 gray levels, (N, 5, 64, 96) float32 masks, (N, 14) float32.
    """
    shifts = torch.arange(len(MASKS), device=bits.device, dtype=torch.uint8)
    masks = ((bits[:, None] >> shifts[:, None, None]) & 1).float()
    gray, masks, numbers = cut_out(gray[:, None].float(), masks, numbers)
    return lit(restyled(relit(gray, masks, numbers))), masks, numbers


def cut_out(gray: Tensor, masks: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a first look sees, the whole picture, or a second one: a part about the end.

    Pictures come out at the size of the network's input, masks at that of its maps.
    """
    n, at = len(gray), gray.device
    box, tip = numbers[:, 6:10], numbers[:, 2:4]
    middle = (box[:, :2] + box[:, 2:]) / 2
    tip = torch.where(torch.isfinite(tip), tip, middle)
    about = torch.where(torch.rand(n, 1, device=at) < 0.5, tip, middle)
    about = torch.where(torch.isfinite(about), about, torch.rand(n, 2, device=at))
    # A head is to fill a third to all of the part; one that fills the picture is seen whole.
    head = (box[:, 2:] - box[:, :2]).amax(1).nan_to_num(0.3)
    bare = numbers[:, 0] == KINDS.index("pin")
    head = torch.where(bare, 0.3, head)  # its end is looked at, not its length
    size = (head * torch.exp(torch.rand(n, device=at) * 1.4))[:, None]
    size = (size * torch.exp(0.1 * torch.randn(n, 2, device=at))).clamp(SMALLEST_PART, 1.0)
    size = torch.where(torch.rand(n, 1, device=at) < WHOLE, 1.0, size)
    about = about + 0.15 * size * torch.randn(n, 2, device=at)
    first = torch.minimum((about - size / 2).clamp(min=0), 1 - size)
    first, size = _ended_before_the_tip(first, size, numbers)
    flip = (torch.rand(n, 2, device=at) < 0.5).float()
    rows, columns = INPUT
    # Twice as fine, then the mean of 2 x 2: else what is small would be skipped.
    gray = _sampled(gray, first, size, flip, 2 * rows, 2 * columns)
    gray = functional.avg_pool2d(gray, 2)
    masks = (_sampled(masks, first, size, flip, rows // FINE, columns // FINE) > 0.4).float()
    # A part that shows no cell of the mount is labeled as empty.
    seen = masks[:, :3].sum((1, 2, 3)) >= 1
    return gray, masks, _numbers(numbers, first, size, flip, seen)


def _numbers(numbers: Tensor, first: Tensor, size: Tensor, flip: Tensor, seen: Tensor) -> Tensor:
    """Return kind, side and places as a view shows them; `flip`, (N, 2), is 1 where mirrored."""
    places = (numbers[:, 2:10] - first.repeat(1, 4)) / size.repeat(1, 4)
    turned = flip.repeat(1, 4)
    tip, begin, low, high = (turned * (1 - places) + (1 - turned) * places).split(2, 1)
    low, high = torch.minimum(low, high).clamp(0, 1), torch.maximum(low, high).clamp(0, 1)
    tip, begin = (
        torch.where(((place < 0) | (place > 1)).any(1, keepdim=True), torch.nan, place)
        for place in (tip, begin)
    )
    box = torch.cat([low, high], 1)
    box = torch.where((high - low < 0.01).any(1, keepdim=True), torch.nan, box)
    places = torch.where(seen[:, None], torch.cat([tip, begin, box], 1), torch.nan)
    side = numbers[:, 1]  # none, left, right, top, bottom
    side = torch.where((flip[:, 0] > 0) & (side > 0) & (side < 3), 3 - side, side)
    side = torch.where((flip[:, 1] > 0) & (side > 2), 7 - side, side)
    named = torch.stack([numbers[:, 0], side], 1) * seen[:, None]
    return torch.cat([named, places, numbers[:, 10:]], 1)


def _ended_before_the_tip(first: Tensor, size: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Let some parts, (N, 2) and (N, 2), end on the stem, or just beyond the tip."""
    n, device = len(first), first.device
    side, tip = numbers[:, 1].long(), numbers[:, 2:4]
    along = (side > 2).long()[:, None]  # 0 from left or right, 1 from top or bottom
    back = ((side == 2) | (side == 4))[:, None]
    reach = torch.where(back, 1 - tip, tip).gather(1, along)
    begin = torch.where(back, 1 - numbers[:, 4:6], numbers[:, 4:6]).gather(1, along).nan_to_num(0)
    cut = begin + torch.rand(n, 1, device=device) * (reach - begin) - 0.01
    barely = torch.rand(n, 1, device=device) < BARELY_SEEN
    inside = (reach + 0.06 * torch.rand(n, 1, device=device)).clamp(max=1.0)
    cut = torch.where(barely, inside, cut)
    wanted = torch.rand(n, 1, device=device) < BEYOND
    wanted = wanted & (side[:, None] > 0) & (cut > SMALLEST_PART)
    at = torch.where(back, 1 - cut, 0.0)
    across = (tip.gather(1, 1 - along) - cut * torch.rand(n, 1, device=device)).clamp(min=0)
    across = torch.minimum(across, 1 - cut)
    placed = torch.where(along == 0, torch.cat([at, across], 1), torch.cat([across, at], 1))
    return torch.where(wanted, placed, first), torch.where(wanted, cut, size)


def _sampled(
    picture: Tensor, first: Tensor, size: Tensor, flip: Tensor, rows: int, columns: int
) -> Tensor:
    """Sample the parts that begin at `first` with `size`, (N, 2), of the picture, mirrored."""
    # Sums of vectors: affine_grid multiplies matrices, which takes half the time of a batch.
    across, down = (
        (flip[:, k, None] - (torch.arange(cells, device=picture.device) + 0.5) / cells).abs()
        for k, cells in enumerate((columns, rows))
    )
    x = (2 * (first[:, 0, None] + size[:, 0, None] * across) - 1)[:, None, :]
    y = (2 * (first[:, 1, None] + size[:, 1, None] * down) - 1)[:, :, None]
    grid = torch.stack([x.expand(-1, rows, -1), y.expand(-1, -1, columns)], 3)
    return functional.grid_sample(
        picture, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def relit(gray: Tensor, masks: Tensor, numbers: Tensor) -> Tensor:
    """Make each part of the mount in some pictures lighter or darker by a factor of its own.

    The mask of a head is filled: a nylon loop whose opening is darker than the light would be a
    film, so its head stays as it is.
    """
    n, at = len(gray), gray.device
    factors = 0.5 * torch.randn(n, len(MASKS), 1, 1, device=at)
    open_loop = (numbers[:, 0] == KINDS.index("nylon")).float().view(n, 1, 1, 1)
    is_head = (torch.arange(len(MASKS), device=at) == MASKS.index("head")).view(1, -1, 1, 1)
    factors = factors * (1 - open_loop * is_head)
    factors = factors * (torch.rand(n, 1, 1, 1, device=at) < RELIT)
    smooth = functional.interpolate(
        (masks * factors).sum(1, keepdim=True), size=gray.shape[2:], mode="bilinear"
    )
    return gray * torch.exp(smooth)


def restyled(gray: Tensor) -> Tensor:
    """Mix some pictures with what a random tone curve and a random convolution make of them.

    The network is to find shapes, not the way in which a generator draws them (random convolutions:
    Xu et al., arXiv:2007.13003).
    """
    n, at = len(gray), gray.device
    mean = gray.mean((2, 3), keepdim=True)
    spread = gray.std((2, 3), keepdim=True) + 1.0
    now = (gray - mean) / spread
    bend = torch.randn(n, 3, 1, 1, 1, device=at)
    now = now + 0.3 * bend[:, 0] * now.abs() + 0.3 * bend[:, 1] * torch.sin(2 * now + bend[:, 2])
    far = torch.arange(KERNEL_PX, device=at) - KERNEL_PX // 2
    reach = torch.randint(0, KERNEL_PX // 2 + 1, (n, 1, 1), device=at)
    within = (far.abs()[:, None] <= reach) & (far.abs()[None, :] <= reach)
    kernel = torch.randn(n, KERNEL_PX, KERNEL_PX, device=at) * within
    kernel = kernel + kernel.flip(1, 2)  # symmetric: edges stay where they are
    now = _convolved(now, kernel[:, None])
    now = now - now.mean((2, 3), keepdim=True)
    now = now / (now.std((2, 3), keepdim=True) + 1e-3)
    part = torch.rand(n, 1, 1, 1, device=at) * (torch.rand(n, 1, 1, 1, device=at) < RESTYLED)
    return gray + part * (now * spread + mean - gray)


def lit(gray: Tensor) -> Tensor:
    """Change blur, gamma, shade, brightness, noise and polarity of pictures, (N, 1, 128, 192)."""
    n, at = len(gray), gray.device

    def chance(part: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=at) < part

    def normal() -> Tensor:
        return torch.randn(n, 1, 1, 1, device=at)

    gray = torch.where(chance(BLURRED), _blurred(gray), gray)
    bent = 255 * (gray.clamp(1, 255) / 255) ** torch.exp(0.3 * normal())
    gray = torch.where(chance(BENT), bent, gray)
    y = torch.linspace(-1, 1, gray.shape[2], device=at)[:, None]
    x = torch.linspace(-1, 1, gray.shape[3], device=at)
    shade = torch.exp(0.15 * normal() * x + 0.15 * normal() * y)
    gray = torch.where(chance(SHADED), gray * shade, gray)
    noise = torch.rand(n, 1, 1, 1, device=at) ** 3 * 6.0 * torch.randn_like(gray)
    gray = (gray * torch.exp(0.25 * normal()) + noise + 10.0 * normal()).clamp(0, 255)
    return torch.where(chance(INVERTED), 255 - gray, gray)


def _blurred(gray: Tensor) -> Tensor:
    """Blur each picture by a width of its own, 0.3 to 2.4 px."""
    n = len(gray)
    sigma = 0.3 * torch.exp(2.1 * torch.rand(n, 1, device=gray.device))
    far = torch.arange(KERNEL_PX, device=gray.device) - KERNEL_PX // 2
    kernel = torch.exp(-0.5 * (far / sigma) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    return _convolved(gray, kernel.view(n, 1, 1, KERNEL_PX), kernel.view(n, 1, KERNEL_PX, 1))


def _convolved(gray: Tensor, *kernels: Tensor) -> Tensor:
    """Convolve each picture with a kernel of its own, (N, 1, h, w), or with several in turn."""
    n, _, rows, columns = gray.shape
    half = KERNEL_PX // 2
    padded = functional.pad(gray, (half, half, half, half), mode="replicate")
    # Each picture is a channel with its own kernel.
    one = padded.view(1, n, rows + 2 * half, columns + 2 * half)
    for kernel in kernels:
        one = functional.conv2d(one, kernel, groups=n)
    return one.view(n, 1, rows, columns)
