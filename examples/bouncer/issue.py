"""Print a token that the door accepts, signed with BOUNCER_SECRET."""

from __future__ import annotations

import os
import sys
import time

import jwt

if __name__ == "__main__":
    subject = sys.argv[1] if len(sys.argv) > 1 else "alice"
    claims = {"sub": subject, "aud": "prices", "exp": int(time.time()) + 3600}
    print(jwt.encode(claims, os.environ["BOUNCER_SECRET"], "HS256"))
