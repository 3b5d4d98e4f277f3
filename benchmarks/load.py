"""The load on a separate core, and its measurements: wrk, or connections that have been answered before."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT

ECHO_BODY = b'{"message":"hello chio","count":3}'
"""What is posted to /echo: 34 bytes."""

# wrk calls done() at the end; latencies are microseconds there, and so is the duration.
_REPORT = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nREPORT {"requests":%d,"microseconds":%d,"p50":%.0f,"p99":%.0f,"refused":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""

_GET = "wrk.method = 'GET'\n"
_POST = f"""wrk.method = 'POST'
wrk.headers['Content-Type'] = 'application/json'
wrk.body = '{ECHO_BODY.decode()}'
"""

# One evaluation per call, each with a request id that no other call of any run has.
_EVALUATE = """
local headers = {['Content-Type'] = 'application/json'}
local more = ''
"""
_CHARGED = """
headers['X-Chio-Capability'] = '%s'
more = '"budget":{"cost":1,"currency":"USD","max_total_cost":1000000000000},'
"""
_REQUESTS = """
local count, mark = 0, nil
local text = '{"request_id":"%s-%d","method":"GET","route_pattern":"/hello","path":"/hello",' ..
  '"caller":{"subject":"anonymous","auth_method":{"method":"anonymous"},"verified":false},' ..
  more .. '"body_length":0,"timestamp":%d}'
function request()
  if mark == nil then
    local source = io.open('/proc/sys/kernel/random/uuid')
    mark = source:read('*l')
    source:close()
  end
  count = count + 1
  return wrk.format('POST', '/chio/evaluate', headers, string.format(text, mark, count, os.time()))
end
"""

# wrk waits delay() milliseconds before it sends on a connection that has become free. The times of sending are
# drawn for all connections together, so that the requests arrive at random and at the wanted rate.
_PACE = """
local ffi = require('ffi')
ffi.cdef('typedef struct {{ long seconds; long nanoseconds; }} moment; int clock_gettime(int, moment *);')
local moment, slot = ffi.new('moment'), 0
function delay()
  ffi.C.clock_gettime(1, moment)
  local now = tonumber(moment.seconds) * 1000 + tonumber(moment.nanoseconds) / 1e6
  slot = math.max(slot, now) - math.log(1 - math.random()) * 1000 / {rate}
  return math.floor(slot - now + 0.5)
end
"""

_SCRIPTS = {"/hello": _GET, "/echo": _POST, "/chio/evaluate": _EVALUATE + _REQUESTS}


@dataclass(frozen=True)
class Load:
    """What the load saw in one window.

    Attributes:
        requests: complete responses.
        rps: requests per second.
        p50_ms: median latency, milliseconds.
        p99_ms: 99th percentile of the latency, milliseconds.
        refused: responses with a status of 400 or more.
        broken: connections and responses that failed or took longer than 10 s.
        cpu_seconds: what the load itself used.
    """

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    cpu_seconds: float


class Wrk:
    """Runs wrk with one thread, pinned to one core."""

    def __init__(self, workdir: Path, core: int) -> None:
        """Write the scripts to `workdir`."""
        self._core = core
        self._script = workdir / "load.lua"

    def run(
        self, port: int, endpoint: str, connections: int, seconds: int, rate: int | None = None, token: str = ""
    ) -> Load:
        """Load one endpoint of the server on `port` for whole seconds.

        Without a `rate` (requests per second) each connection sends again as soon as it has its response. With a
        capability's `token` each evaluation charges a budget of that capability.
        """
        pace = _PACE.format(rate=rate) if rate else ""
        script = _EVALUATE + _CHARGED % token + _REQUESTS if token else _SCRIPTS[endpoint]
        self._script.write_text(script + pace + _REPORT)
        command = [
            *("taskset", "-c", str(self._core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"),
            *("--timeout", "10s", "-s", str(self._script), f"http://127.0.0.1:{port}{endpoint}"),
        ]
        before = _children_cpu()
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
        return _parse(run.stdout, _children_cpu() - before)


class Steady:
    """Runs `benchmarks.steady`, pinned to one core."""

    def __init__(self, core: int) -> None:
        """Load from that core."""
        self._core = core

    def run(self, port: int, endpoint: str, connections: int, seconds: int) -> Load:
        """Load one endpoint of the application on `port` for whole seconds, over connections that it has accepted."""
        command = ["taskset", "-c", str(self._core), sys.executable, "-m", "benchmarks.steady"]
        command += [str(port), endpoint, str(connections), str(seconds)]
        before = _children_cpu()
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=seconds + 90)
        return _parse(run.stdout, _children_cpu() - before)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _parse(output: str, cpu_seconds: float) -> Load:
    told = json.loads(output.rpartition("REPORT ")[2])
    return Load(
        requests=told["requests"],
        rps=told["requests"] * 1e6 / told["microseconds"],
        p50_ms=told["p50"] / 1000,
        p99_ms=told["p99"] / 1000,
        refused=told["refused"],
        broken=told["broken"],
        cpu_seconds=cpu_seconds,
    )
