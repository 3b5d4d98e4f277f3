#!/bin/sh
# Runs both examples to their end: the snippets, then a service that calls two upstreams under one capability.
# Neither needs a network; the upstreams are in stand_in.py, the sidecar is embedded.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib/python.sh"
cd "$here"
"$python" snippets.py
exec "$python" demo.py
