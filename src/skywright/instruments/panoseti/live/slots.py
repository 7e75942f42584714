"""The newest frame of each kind, for any number of clients.

A slot holds one encoded frame of one module and product, for ph256 of one board. A client has a
position in each slot, so a busy module cannot hide a quiet one, and a slow client misses only
frames of its own. All of it belongs to one event loop.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


class SlotKey(NamedTuple):
    """What a slot is for; `quabo` is -1 for products of whole modules."""

    module: int
    product: str
    quabo: int


@dataclass
class _Slot:
    movie: bool
    payload: bytes
    count: int = 1


@dataclass(eq=False)
class Subscription:
    """One client's view of the slots.

    Attributes
    ----------
    movie, pulse_height
        Which kinds the client wants.
    modules
        Modules the client wants; empty for all, also later ones.
    sent, missed
        Frames handed out, and frames that newer ones replaced before they were.
    """

    movie: bool
    pulse_height: bool
    modules: Collection[int]
    sent: int = 0
    missed: int = 0
    _fresh: dict[SlotKey, _Slot] = field(default_factory=dict)
    _counts: dict[SlotKey, int] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wants(self, key: SlotKey, movie: bool) -> bool:
        """Return whether the client wants frames of a slot."""
        kind = self.movie if movie else self.pulse_height
        return kind and (not self.modules or key.module in self.modules)

    def offer(self, key: SlotKey, slot: _Slot) -> None:
        """Note that `slot` has a new frame."""
        if self.wants(key, slot.movie):
            self._counts.setdefault(key, slot.count - 1)  # frames before this one are not missed
            self._fresh[key] = slot
            self._wake.set()

    async def wait(self) -> None:
        """Wait for a frame that this client has not got."""
        await self._wake.wait()

    @property
    def waiting(self) -> int:
        """Number of slots with a frame that this client has not got."""
        return len(self._fresh)

    def next(self) -> bytes | None:
        """Return the newest frame of the slot that has waited longest; None if none has one."""
        if not self._fresh:
            self._wake.clear()
            return None
        key = next(iter(self._fresh))
        slot = self._fresh.pop(key)
        self.missed += slot.count - self._counts[key] - 1
        self._counts[key] = slot.count
        self.sent += 1
        if not self._fresh:
            self._wake.clear()
        return slot.payload


class Slots:
    """All slots, and the clients that look at them."""

    def __init__(self) -> None:
        self._slots: dict[SlotKey, _Slot] = {}
        self._subscriptions: set[Subscription] = set()

    def publish(self, key: SlotKey, movie: bool, payload: bytes) -> None:
        """Put an encoded frame into its slot."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot(movie, payload)
        else:
            slot.payload = payload
            slot.count += 1
        for subscription in self._subscriptions:
            subscription.offer(key, slot)

    def subscribe(
        self, movie: bool, pulse_height: bool, modules: Collection[int] = ()
    ) -> Subscription:
        """Return a new client's view; it begins with what the slots hold now."""
        subscription = Subscription(movie, pulse_height, frozenset(modules))
        self._subscriptions.add(subscription)
        for key, slot in self._slots.items():
            subscription.offer(key, slot)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a client."""
        self._subscriptions.discard(subscription)

    def clear(self) -> None:
        """Empty all slots: what they hold is of a source that has ended."""
        self._slots.clear()
