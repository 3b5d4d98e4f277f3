"""The order of a run: every variant in turn, there and back again, the others frozen meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks import usage
from benchmarks.figures import Window
from benchmarks.load import Load, Steady, Wrk
from benchmarks.machine import Cores, UnsuitableError
from benchmarks.servers import Server
from benchmarks.variants import ENDPOINTS, Stage, evaluations


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        variants: names, in the order of the first round; odd rounds go backwards.
        rounds: how often everything is visited.
        seconds: length of one window.
        connections: how many clients there are at once; one window for each number.
        warmup: seconds of load before each window, which are not counted.
        only: by number of connections the variants that are measured there; all of them where it has no entry.
        steady: numbers of connections at which `benchmarks.steady` is the load, because their p99 is asked for.
    """

    variants: tuple[str, ...]
    rounds: int
    seconds: int
    connections: tuple[int, ...]
    warmup: int = 1
    only: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    steady: frozenset[int] = frozenset()

    def steps(self) -> Iterator[tuple[int, str, int, str]]:
        """Yield (round, endpoint, connections, variant) in the order of measuring."""
        for number in range(self.rounds):
            # There and back, so that a machine that grows slower or faster favours no variant.
            order = self.variants if number % 2 == 0 else self.variants[::-1]
            for endpoint in ENDPOINTS:
                for connections in self.connections:
                    for variant in order:
                        if variant in self.only.get(connections, order):
                            yield number, endpoint, connections, variant

    def minutes(self) -> float:
        """Return how long the run will take, about."""
        return len(list(self.steps())) * (self.seconds + self.warmup + 0.3) / 60


def measure(plan: Plan, stage: Stage, wrk: Wrk, cores: Cores) -> list[Window]:
    """Run the plan and return one window for each of its steps."""
    windows = []
    kept = Steady(cores.load)
    for number, endpoint, connections, variant in plan.steps():
        app = stage.apps[variant]
        app.thaw()
        for _ in range(2):  # a window without a response is measured again, because a long run would be lost with it
            wrk.run(app.port, endpoint, connections, plan.warmup)
            before = _Readings.take(app, stage.sidecar, cores)
            load = (kept if connections in plan.steady else wrk).run(app.port, endpoint, connections, plan.seconds)
            after = _Readings.take(app, stage.sidecar, cores)
            if load.requests:
                break
        app.freeze()
        if load.requests == 0:
            raise UnsuitableError(f"{variant} responded to nothing within {plan.seconds} s: give longer --seconds.")
        window = _window(number, endpoint, connections, variant, load, before, after)
        windows.append(window)
        _tell(window)
    return windows


@dataclass(frozen=True)
class _Readings:
    """All counters at one moment; seconds, but for the count of evaluations."""

    clock: float
    app: float
    sidecar: float
    app_core: float
    load_core: float
    stolen: float
    evaluations: int
    resident_mib: float

    @classmethod
    def take(cls, app: Server, sidecar: Server, cores: Cores) -> _Readings:
        app_core, stolen = usage.core_seconds(cores.app)
        return cls(
            clock=time.monotonic(),
            app=app.cpu_seconds(),
            sidecar=sidecar.cpu_seconds(),
            app_core=app_core,
            load_core=usage.core_seconds(cores.load)[0],
            stolen=stolen,
            evaluations=evaluations(sidecar),
            resident_mib=app.resident_mib(),
        )


def _window(
    number: int,
    endpoint: str,
    connections: int,
    variant: str,
    load: Load,
    before: _Readings,
    after: _Readings,
) -> Window:
    wall = after.clock - before.clock
    app, stub = after.app - before.app, after.sidecar - before.sidecar
    others = max(
        after.app_core - before.app_core - app,
        after.load_core - before.load_core - stub - load.cpu_seconds,
    )
    return Window(
        round=number,
        endpoint=endpoint,
        connections=connections,
        variant=variant,
        requests=load.requests,
        rps=load.rps,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        refused=load.refused,
        broken=load.broken,
        cpu_ms=app * 1000 / load.requests,
        app_busy=app / wall,
        stub_busy=stub / wall,
        wrk_busy=load.cpu_seconds / wall,
        others_busy=max(0.0, others) / wall,
        stolen=(after.stolen - before.stolen) / wall,
        evaluations=(after.evaluations - before.evaluations) / load.requests,
        resident_mib=after.resident_mib,
    )


def _tell(window: Window) -> None:
    print(
        f"round {window.round + 1} {window.endpoint:6} {window.connections:4} connections {window.variant:9} "
        f"{window.rps:8.0f}/s  p50 {window.p50_ms:.2f} ms  CPU {window.cpu_ms:.3f} ms  "
        f"refused {window.refused} broken {window.broken}",
        file=sys.stderr,
        flush=True,
    )
