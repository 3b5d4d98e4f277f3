"""For tests of governed applications: a scripted sidecar and its behaviours.

For example::

    from chio_core.testing import ScriptedSidecar, behaviours

    sidecar = ScriptedSidecar(behaviours.DENY)
    add_chio(app, client=sidecar.client())          # no sockets
    ...
    assert sidecar.asked[0].path == "/pets/7"

    with ScriptedSidecar().serving_in_thread() as sidecar:      # a real socket, for Django and Flask
        settings.CHIO_SIDECAR_URL = sidecar.url
        settings.CHIO_TRUSTED_KERNEL_KEYS = [sidecar.public_key]

The pytest fixture `chio` is all of that in one object, a `ChioFixture`, which decides like a real sidecar until a test
says otherwise. pytest finds it as soon as this distribution is installed.

Nothing here is a mock: requests are read, receipts are signed, and the client verifies them as always.
"""

from chio_core.testing import behaviours
from chio_core.testing.behaviours import BEHAVIOURS, Behaviour, Reply, behaviour
from chio_core.testing.engine import Approval
from chio_core.testing.exchange import EvaluateRequest, make_receipt, seal
from chio_core.testing.fixture import ChioFixture
from chio_core.testing.sidecar import KEY, ScriptedSidecar

__all__ = [
    "BEHAVIOURS",
    "KEY",
    "Approval",
    "Behaviour",
    "ChioFixture",
    "EvaluateRequest",
    "Reply",
    "ScriptedSidecar",
    "behaviour",
    "behaviours",
    "make_receipt",
    "seal",
]
