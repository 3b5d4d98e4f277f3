"""`python -m chio_sidecar.cli`."""

from __future__ import annotations

import sys

from chio_sidecar.cli import main

sys.exit(main())
