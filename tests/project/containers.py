"""A small container engine for tests: the files of deploy/ as processes in namespaces. It needs root, and no images.

The base of every image is this machine, as the lower layer of an overlay, so the steps of a container file are executed
as they are written. Each container has a root, a network and rights of its own. Everything ends with the engine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.watchdog import Watchdog

_PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NETWORK = "192.0.2"  # reserved for documentation; here between the namespaces of one test


class StepError(Exception):
    """A command has failed; the message has its end."""


@dataclass
class Image:
    """What the steps of a container file have left: layers of files, the upper one first, and settings."""

    layers: list[str] = field(default_factory=lambda: ["/"])
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    user: str = "0:0"
    folder: str = "/"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rights:
    """What compose.yaml states about a container, with the names that it has there."""

    read_only: bool = False
    cap_drop: Sequence[str] = ()
    security_opt: Sequence[str] = ()


class Engine:
    """The namespaces of one test.

    Args:
        folder: an empty folder; what is below is in memory, and seen by this engine alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        for program in ("unshare", "nsenter", "chroot", "setpriv", "ip"):
            if subprocess.run(["sh", "-c", f"command -v {program}"], stdout=subprocess.DEVNULL, check=False).returncode:
                pytest.skip(f"{program} is not installed")
        holder = self._hold("--mount", "--net", "--propagation=private")
        self._within = ["nsenter", f"--mount=/proc/{holder}/ns/mnt"]
        self._bridge = [*self._within, f"--net=/proc/{holder}/ns/net"]
        try:
            self._run("mount", "-t", "tmpfs", "tmpfs", str(self._folder))
            self._overlay(["/"])
            for command in ("link set lo up", "link add name bridge type bridge", "link set bridge up"):
                self._run("ip", *command.split(), within=self._bridge)
        except StepError as refused:
            self._ends.close()
            pytest.skip(f"namespaces, overlays and bridges are not permitted here: {refused}")
        self._hosts = self._new("hosts")
        self._run("cp", "/etc/hosts", self._hosts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def _hold(self, *namespaces: str) -> int:
        """Start a process that keeps new namespaces until the engine ends; return its id."""
        process = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", "echo held; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        if process.stdout.readline() != "held\n":
            pytest.skip(f"unshare is not permitted here: {process.communicate()[1].strip()}")
        self._ends.callback(process.communicate)  # it ends with its input
        return process.pid

    def _run(self, *command: str, within: Sequence[str] | None = None) -> None:
        whole = [*(self._within if within is None else within), *command]
        done = subprocess.run(whole, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise StepError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _new(self, kind: str) -> str:
        self._number += 1
        return str(self._folder / f"{self._number}-{kind}")

    def _overlay(self, layers: Sequence[str]) -> tuple[str, str]:
        """Mount a new layer over others; return it, and the root with all of them."""
        upper, work, root = self._new("layer"), self._new("work"), self._new("root")
        self._run("mkdir", upper, work, root)
        options = f"lowerdir={':'.join(layers)},upperdir={upper},workdir={work}"
        self._run("mount", "-t", "overlay", "overlay", "-o", options, root)
        self._run("mount", "-t", "proc", "proc", f"{root}/proc")
        self._run("mount", "--rbind", "/dev", f"{root}/dev")
        return upper, root

    def build(self, file: Path, context: Path) -> Image:
        """Execute a container file; its RUN steps may use the network of this machine, as a builder does."""
        stages: dict[str, str] = {}
        image, root = Image(), ""
        for name, rest in _instructions(file.read_text()):
            if name == "FROM":
                upper, root = self._overlay(["/"])
                # The interpreter of these tests may be in a home folder; in an image everybody can read it.
                self._run("chmod", "a+x", *(f"{root}{folder}" for folder in Path(sys.base_prefix).parents[:-1]))
                stages[rest.partition(" AS ")[2]] = root
                image = Image([upper, "/"])
            elif name == "RUN":
                pip = {
                    key: value for key, value in os.environ.items() if key.startswith("PIP_") or "proxy" in key.lower()
                }
                self._run(*_inside(root, image.folder, image.environ | pip), "sh", "-c", rest)
            elif name == "COPY":
                *options, source, target = rest.split()
                origin = stages[options[0].removeprefix("--from=")] + source if options else f"{context}/{source}"
                place = os.path.join(image.folder, target)
                self._run("mkdir", "-p", f"{root}{place}")
                self._run("cp", "-a", f"{origin}/.", f"{root}{place}/")
            elif name == "WORKDIR":
                self._run("mkdir", "-p", f"{root}{rest}")
                image.folder = rest
            elif name == "ENV":
                for one in shlex.split(rest):
                    key, _, value = one.partition("=")
                    image.environ[key] = value.replace("$PATH", image.environ["PATH"])
            elif name == "HEALTHCHECK":
                image.healthcheck = json.loads(rest.partition("CMD ")[2])
            elif name in ("ENTRYPOINT", "CMD"):
                setattr(image, {"CMD": "command"}.get(name, name.lower()), json.loads(rest))
            elif name == "VOLUME":
                image.volumes.append(rest)
            elif name == "USER":
                image.user = rest
        return image

    def start(
        self,
        name: str,
        image: Image,
        command: Sequence[str] = (),
        *,
        rights: Rights,
        environ: Mapping[str, str] = {},
        files: Mapping[str, Path] = {},
        memory: Sequence[str] = (),
        shared: Mapping[str, Path] = {},
    ) -> Container:
        """Start a container.

        Args:
            name: its host name for the others.
            image: its image.
            command: in place of the image's.
            rights: what it may do.
            environ: besides the image's.
            files: what is mounted, read-only, by its place.
            memory: folders in memory, where everybody may write.
            shared: folders of several containers, by their places.
        """
        _, root = self._overlay(image.layers)
        for place, source in {"/etc/hosts": Path(self._hosts), **files}.items():
            self._run("mkdir", "-p", f"{root}{os.path.dirname(place)}")
            self._run(*(["mkdir", "-p"] if source.is_dir() else ["touch"]), f"{root}{place}")
            self._run("mount", "--bind", "-o", "ro", str(source), f"{root}{place}")
        for place, source in shared.items():
            self._run("mkdir", "-p", f"{root}{place}")
            self._run("mount", "--bind", str(source), f"{root}{place}")
        for place in memory:
            self._run("mkdir", "-p", f"{root}{place}")
            self._run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}{place}")
        for place in image.volumes:  # a new volume gets the owner of its folder in the image
            user, _, group = image.user.partition(":")
            self._run("mkdir", "-p", f"{root}{place}")
            self._run("mount", "-t", "tmpfs", "-o", f"mode=700,uid={user},gid={group}", "tmpfs", f"{root}{place}")
        if rights.read_only:
            self._run("mount", "-o", "remount,bind,ro", root)

        network = self._hold("--net")
        self._number += 1
        address, link = f"{_NETWORK}.{self._number % 250 + 2}", f"v{self._number}"
        for text in (
            f"link add name {link} type veth peer name eth0 netns {network}",
            f"link set {link} master bridge up",
        ):
            self._run("ip", *text.split(), within=self._bridge)
        own = [*self._within, f"--net=/proc/{network}/ns/net"]
        for text in ("link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"):
            self._run("ip", *text.split(), within=own)
        self._run("sh", "-c", f"echo {address} {name} >>{self._hosts}")

        user, _, group = image.user.partition(":")
        limits = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        limits += ["--inh-caps=-all", "--bounding-set=-all"] if "ALL" in rights.cap_drop else []
        limits += ["--no-new-privs"] if "no-new-privileges:true" in rights.security_opt else []
        prefix = [*own, *_inside(root, image.folder, image.environ | dict(environ)), *limits]
        whole = [*prefix, *image.entrypoint, *(command or image.command)]
        process = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # to end its children with it
        )
        watchdog = Watchdog('kill -s KILL -- "-$1"', process.pid)
        container = Container(prefix, process, image.healthcheck, watchdog)
        self._ends.callback(container.end)
        return container


@dataclass
class Container:
    """A started container."""

    prefix: list[str]
    process: subprocess.Popen[bytes]
    healthcheck: list[str]
    watchdog: Watchdog
    printed: str | None = None

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run another command in it, with the same rights."""
        return subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False, timeout=60)

    def wait_until_healthy(self) -> None:
        """Repeat its health check until that succeeds."""
        while self.execute(*self.healthcheck).returncode != 0:
            assert self.process.poll() is None, self.end()

    def end(self) -> str:
        """End it as an engine does; return what it has printed. A second call returns the same."""
        if self.printed is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.printed = self.process.communicate(timeout=30)[0].decode()
            except subprocess.TimeoutExpired:
                # Its children too: one that stays holds the pipe open, which would then never end.
                os.killpg(self.process.pid, signal.SIGKILL)
                self.printed = self.process.communicate()[0].decode()
            self.watchdog.close()
        return self.printed


def _inside(root: str, folder: str, environ: Mapping[str, str]) -> list[str]:
    variables = [f"{name}={value}" for name, value in environ.items()]
    return ["chroot", root, "/usr/bin/env", "-i", "-C", folder, *variables]


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def rights_of(service: Mapping[str, Any]) -> Rights:
    """Return the rights that a service of compose.yaml has."""
    names = ("read_only", "cap_drop", "security_opt")
    return Rights(**{name: service[name] for name in names if name in service})
