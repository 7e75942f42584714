"""The loop of training: one network, or several side by side on one device."""

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from loss import loss_of
from names import TURN
from network import LoopNetwork
from pool import Pool
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from views import views

AVERAGE_EVERY = 20  # steps
AVERAGE = 0.96  # of the running average of the weights that is kept then
WARM_UP_STEPS = 300
LARGEST_GRADIENT = 5.0
WEIGHT_DECAY = 0.01
SAVE_SECONDS = 30.0
log = logging.getLogger("train_loop")


class Learner:
    """A network in training, with its optimizer and the average of its weights.

    Parameters
    ----------
    pool
        The pictures.
    checkpoint
        File of its weights: where it exists, training goes on from it.
    batch
        Number of pictures in a step.
    without
        Generator whose pictures it does not see; empty for none.
    more
        Generator of which it sees three times as many as of each other; empty for none.
    """

    def __init__(
        self, pool: Pool, checkpoint: Path, batch: int, without: str = "", more: str = ""
    ) -> None:
        device = pool.device
        self.pool, self.checkpoint, self.batch = pool, checkpoint, batch
        self.without, self.more = without, more
        self.network = LoopNetwork().to(device, memory_format=torch.channels_last)
        self.steps = 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True, map_location=device)
            self.network.load_state_dict(state["average"])
            self.steps = state["step"]
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE), use_buffers=True
        )
        on_gpu = device.type == "cuda"
        self.rate = torch.zeros((), device=device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.rate,
            weight_decay=WEIGHT_DECAY,
            fused=True,
            capturable=on_gpu,
        )
        self.rows = torch.zeros(batch, dtype=torch.long, device=device)
        self.losses: dict[str, Tensor] = {}
        # bfloat16 on a processor without instructions for it takes ten times longer.
        short = on_gpu or torch.cpu.get_capabilities().get("avx512_bf16", False)
        self.precision = torch.autocast(device.type, torch.bfloat16, enabled=short)
        self.stream = torch.cuda.Stream() if on_gpu else None
        self.run = self._captured() if on_gpu else self._update

    def step(self, rate: float) -> None:
        """Learn from one batch."""
        with torch.cuda.stream(self.stream):
            self.rate.fill_(rate)
            self.rows.copy_(self.pool.drawn(self.batch, self.without, self.more))
            self.run()
            self.steps += 1
            if self.steps % AVERAGE_EVERY == 0:
                self.average.update_parameters(self.network)

    def _losses(self) -> dict[str, Tensor]:
        rows, pool = self.rows, self.pool
        gray, masks, numbers = views(pool.gray[rows], pool.bits[rows], pool.numbers[rows])
        with self.precision:
            outputs = self.network(gray.contiguous(memory_format=torch.channels_last))
        return loss_of(outputs, masks, numbers)

    def _update(self) -> None:
        self.losses = self._losses()
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(self.losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()

    def _captured(self) -> Callable[[], None]:
        """Return a step that starts its thousand small kernels at once."""
        with torch.cuda.stream(self.stream):
            for _ in range(3):  # at rate 0: libraries choose their kernels
                self.rows.copy_(self.pool.drawn(self.batch, self.without, self.more))
                self._update()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._update()
        return graph.replay

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "average": {k: v.cpu() for k, v in self.average.module.state_dict().items()},
            "step": self.steps,
            "data": self.pool.revision(self.without),
            "without": self.without,
        }
        half = self.checkpoint.with_suffix(".half")
        torch.save(state, half)
        half.rename(self.checkpoint)


def train(
    folder: Path,
    networks: Path,
    minutes: float,
    without: list[str],
    more: list[str],
    rate: float,
    batch: int,
    room: int,
) -> None:
    """Train for a time, minutes: a network that sees all, and others beside it.

    One sees more of each generator named by `more`, one does not see each named by `without`. The
    files are ``all.pt``, ``more-NAME.pt`` and ``without-NAME.pt`` in the folder `networks`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    pool = Pool(folder, device, room)
    over = threading.Event()
    while not set(TURN) <= set(pool.counts):  # the data step may have begun just now
        pool.refresh()
        over.wait(0.2)
    used = [Learner(pool, networks / "all.pt", batch)]
    used += [Learner(pool, networks / f"more-{name}.pt", batch, more=name) for name in more]
    learners = used + [
        Learner(pool, networks / f"without-{name}.pt", batch, without=name) for name in without
    ]
    log.info("%d networks, first pictures after %.0f s", len(learners), time.monotonic() - begun)
    threading.Thread(target=_keep_reading, args=(pool, over), daemon=True).start()
    saved, step = time.monotonic(), 0
    while (part := (time.monotonic() - begun) / (60 * minutes)) < 1:
        step += 1
        now = rate * min(1.0, step / WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * part))
        # Those for use learn twice as often as those that tell what they cannot know.
        for learner in (*learners, *used):
            learner.step(now)
        if device.type == "cuda" and step % AVERAGE_EVERY:
            continue  # the steps wait in the queue of the device
        if device.type == "cuda":
            torch.cuda.synchronize()
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            log.info("%3.0f%% step %d of %d pictures", 100 * part, step, pool.count)
            for learner in learners:
                told = " ".join(f"{k} {float(v.detach()):.3f}" for k, v in learner.losses.items())
                log.info("    %s: %s", learner.checkpoint.name, told)
                learner.save()
    over.set()
    for learner in learners:
        learner.save()


def _keep_reading(pool: Pool, over: threading.Event) -> None:
    while not over.wait(2.0):
        pool.refresh()
