"""Any order of the shots, and any assignment of their blocks, gives the same bits of a result."""

import numpy as np
from hypothesis import strategies as st


def bits(analysis):
    return {key: np.asarray(value).tobytes() for key, value in analysis.result().items()}


def assert_any_assignment_gives_the_same_bits(make, batch, data):
    """Three workers get the shots in any order and pieces, some twice; return the result.

    Those of a block come in order of their tags where the analysis wants that.
    """
    whole = make()
    whole.update(batch)
    workers = [make() for _ in range(3)]
    blocks, block_of = np.unique(batch.identities // whole.block_size, return_inverse=True)
    owner = data.draw(st.lists(st.integers(0, 2), min_size=len(blocks), max_size=len(blocks)))
    owner_of = np.array(owner)[block_of]
    order = np.array(data.draw(st.permutations(range(len(batch)))))
    if whole.ordered:
        order[np.argsort(block_of[order], kind="stable")] = np.arange(len(batch))
    while len(order):
        size = data.draw(st.integers(1, len(order)))
        piece, order = order[:size], order[size:]
        for k, worker in enumerate(workers):
            members = batch.take(piece[owner_of[piece] == k])
            for _ in range(data.draw(st.integers(1, 2)) if len(members) else 0):
                worker.update(members)  # a repeated piece is refused
    total = make()
    for worker in data.draw(st.permutations(workers)):
        total.merge(worker.split(10**9))
        total.merge(worker)
    total.advance(data.draw(st.integers(0, int(batch.identities[-1]) + whole.block_size)))
    assert bits(total) == bits(whole)
    return whole.result()
