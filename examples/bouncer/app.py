"""One door for eighty endpoints: addresses, a limit that all workers share, tokens, headers, a stopwatch, and Chio.

The guards' priorities decide their order, not these lines; `chio-sidecar check app:app` prints it.
"""

from __future__ import annotations

import os

from api import router
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from chio_core.guards import IpBlock, JwtAuth, RateLimit, SecurityHeaders, Stopwatch
from chio_fastapi import add_chio

app = FastAPI()
app.include_router(router)

add_chio(
    app,
    guards=[
        IpBlock(os.environ.get("BOUNCER_BLOCKED", "192.168.1.50").split(",")),
        RateLimit("5/minute", storage=os.environ.get("BOUNCER_REDIS", "memory://")),
        JwtAuth(key=os.environ["BOUNCER_SECRET"], algorithms=["HS256"], audience="prices"),
        SecurityHeaders(),
        Stopwatch(server_timing=True),
    ],
)

# Added last, so it is outermost: refusals carry its headers too, and it answers preflights.
app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_headers=["Authorization"])
