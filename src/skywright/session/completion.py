"""Completion by the Tab key in the console."""

from typing import Any


def complete_items(shell: Any, *containers: Any) -> None:
    """Let an IPython shell complete what follows an item: ``cat[-1].<Tab>``.

    By default IPython asks lists, dictionaries and a few other types for an item, because others
    might do more than return it; with jedi it asks these only.

    Parameters
    ----------
    shell
        From ``get_ipython()``.
    *containers
        Objects whose items may be asked for at each Tab.
    """
    from IPython.core.guarded_eval import EVALUATION_POLICIES

    policy: Any = EVALUATION_POLICIES["limited"]
    shell.Completer.use_jedi = False
    policy.allowed_getitem.update(map(type, containers))
