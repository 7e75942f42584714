"""The simulated sample before the simulated camera: mounting another one, following motors."""

import json
import math
from collections.abc import Callable
from typing import Any

from caproto import ChannelType
from caproto.server import PVGroup

from iocs.areadetector import checked, choice, number, readback
from iocs.common import decode_char_array, post
from iocs.loop.follow import follow_pv
from skywright.instruments.loop.sample_motion import SampleMotion, read_motion

KINDS = ["any", "nylon", "mitegen", "pin", "none"]


async def follow_goniometer(prefix: str, follow: Callable[[SampleMotion], None]) -> None:
    """Tell `follow` of the motion that the simulated goniometer at `prefix` publishes, for ever."""
    await follow_pv(
        f"{prefix}SIM:Motion_RBV",
        lambda data: follow(read_motion(decode_char_array(bytes(data)))),
        connected=f"following the goniometer at {prefix}",
        data_count=0,
    )


async def _put_mount(obj: Any, instance: Any, value: int) -> int:
    """Busy record: completes when the new sample is before the camera."""
    if value:
        await obj.parent.mount_sample()
    return 0


class Sample(PVGroup):
    """The sample; settings take effect with `Mount`. For simulators and for scoring only."""

    seed = number(0, checked(0, 2**31 - 1), name="MountSeed")
    kind = choice(KINDS, name="MountKind")
    x = number(math.nan, units="um", name="MountX")
    y = number(math.nan, units="um", name="MountY")
    z = number(math.nan, units="um", name="MountZ")
    phi = number(math.nan, units="deg", name="MountPhi")
    mount = choice(["Done", "Mount"], put=_put_mount, name="Mount")
    mounted = readback(0, name="Mounted_RBV")
    scene = readback("", ChannelType.CHAR, max_length=2048, name="Scene_RBV")

    async def mount_sample(self) -> None:
        """Mount the sample that the settings say."""
        source = self.parent.camera.source
        if not hasattr(source, "mount"):
            raise ValueError(f"the pictures come from {source.name}; samples are simulated ones")
        kind = self.kind.readback.value
        await self.parent.in_thread(
            source.mount,
            self.seed.readback.value,
            None if kind == "any" else kind,
            [pair.readback.value for pair in (self.x, self.y, self.z)],
            self.phi.readback.value,
        )
        await self.post_truth()
        await post(self.mounted, self.mounted.value + 1)

    async def post_truth(self) -> None:
        """Post what is true of the sample, with all stages at 0."""
        source = self.parent.camera.source
        if hasattr(source, "scene_truth"):
            await post(self.scene, json.dumps(await self.parent.in_thread(source.scene_truth)))
