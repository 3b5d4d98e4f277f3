"""`init`: the files that it writes work, nothing that exists is changed, and git gets no private file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.examples.running import ROOT, environment
from tests.sidecar.control_tools import CommandLine

FASTAPI = "from fastapi import FastAPI\n\napp = FastAPI()\n"
FLASK = "import flask\n\n\ndef create_app(name: str = 'shop'):\n    app = flask.Flask(name)\n    return app\n"
STARLETTE = "from starlette.applications import Starlette\n\nweb: Starlette = Starlette()\n"
MANAGE = """import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
SETTINGS = "SECRET_KEY = 'signs nothing'\nROOT_URLCONF = 'mysite.urls'\nINSTALLED_APPS = []\nMIDDLEWARE = []\n"

PROJECTS = {
    "fastapi": {"main.py": FASTAPI, "models.py": "class FastAPI: ...\n"},
    "flask": {"shop/__init__.py": FLASK, "broken.py": "def (", "venv/pyvenv.cfg": "", "venv/app.py": FASTAPI},
    "starlette": {"server/web.py": STARLETTE, "test_old.py": FASTAPI.replace("app", "one")},
    "src": {
        "pyproject.toml": "",
        "src/shop/__init__.py": "",
        "src/shop/web/app.py": FASTAPI,
        "node_modules/gyp/app.py": FASTAPI,
        ".venv/lib/app.py": FASTAPI,
        "env/pyvenv.cfg": "",
        "env/lib/python3/site/app.py": FASTAPI,
    },
    "deep": {"backend/shop/web/wsgi.py": FLASK},
    "django": {"manage.py": MANAGE, "mysite/settings.py": SETTINGS, "mysite/urls.py": "urlpatterns = []\n"},
}
PLACES = {
    "fastapi": "main:app",
    "flask": "shop:create_app()",
    "starlette": "server.web:web",
    "src": "shop.web.app:app",
    "deep": "backend.shop.web.wsgi:create_app()",
    "django": "mysite.settings",
}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run(*command: str, **more: str) -> str:
    path = f"{ROOT}:{ROOT / 'adapters'}"
    env = environment(PYTHONPATH=path, PYTEST_ADDOPTS="-p chio_pytest -p no:cacheprovider", **more)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".git/" not in str(path)}


def follow(folder: Path, steps: list[str]) -> list[str]:
    """Write the lines that were printed where they belong; return the commands that were printed."""
    at = steps.index("Then run:")
    (source,) = (word for word in steps[0].split() if word.endswith(".py"))
    lines = [line.strip() for line in steps[1:at]]
    path = folder / source
    if "before it returns" in steps[0] or "after the application is made" in steps[0]:
        text = path.read_text().replace("    return app", "".join(f"    {line}\n" for line in lines) + "    return app")
    else:
        text = path.read_text() + "\n".join(lines) + "\n"
    path.write_text(text)
    return [line.strip() for line in steps[at + 1 :] if line.startswith("    ")]


@pytest.mark.parametrize("name", PROJECTS)
def test_the_test_that_it_writes_passes_once_the_lines_that_it_prints_are_written(
    name: str, folder: Path, cli: CommandLine
) -> None:
    write(folder, PROJECTS[name])
    told = json.loads(cli("init", "--json"))
    assert [one["state"] for one in told["files"]] == ["written"] * 3
    assert told["files"][2]["about"] == f"tests {PLACES[name]}"
    command, *_ = follow(folder, told["next"])
    printed = run(*command.replace("python", sys.executable, 1).split())
    assert "2 passed" in printed or "Ran 2 tests" in printed
    assert not list(folder.glob("chio.sqlite3*"))

    # The second time nothing is left to do, and the lines that are there are not asked for again.
    before = contents(folder)
    again = json.loads(cli("init", "--json"))
    assert contents(folder) == before
    assert [one["state"] for one in again["files"]] == ["kept"] * 3
    assert again["next"] == ["Then run:", *told["next"][told["next"].index("Then run:") + 1 :]]


@needs_git
def test_git_add_takes_neither_store_nor_key(folder: Path, cli: CommandLine) -> None:
    write(folder, PROJECTS["fastapi"])
    run("git", "init", "-q", ".")
    cli("init")
    assert cli.err == ""
    for store in ("chio.sqlite3", "state.sqlite3"):
        cli("capability", "issue", "--authority-seed-file", f"{store}.key", "--server", "s", "--tool", "t")
    assert (folder / "chio.sqlite3.key").is_file()
    for end in ("", "-wal", "-shm", "-journal"):
        (folder / f"chio.sqlite3{end}").touch()
    run("git", "add", ".")
    names = run("git", "ls-files").split()
    assert names == [".env", ".gitignore", "main.py", "models.py", "test_chio.py"]


@needs_git
def test_a_key_that_git_has_already_is_named(folder: Path, cli: CommandLine) -> None:
    (folder / "chio.sqlite3.key").touch(mode=0o600)
    run("git", "init", "-q", ".")
    run("git", "add", ".")
    cli("init")
    assert "warning: git has chio.sqlite3.key, or would add it: git rm --cached chio.sqlite3.key" in cli.err


def test_what_exists_is_kept_and_no_value_is_printed(folder: Path, cli: CommandLine) -> None:
    own = {
        ".env": "CHIO_SIDECAR_URL=embedded:var/my store.sqlite3\nCHIO_AUTHORITY_SEED_FILE=seed\nDATABASE_URL=canary",
        ".gitignore": "*.pyc",
        "test_chio.py": "# mine\n",
        "settings.py": "URLS = 'embedded:from code.db?spec=x', 'embedded:../other.db', 'embedded:postgresql://h/d'\n",
    }
    write(folder, own | PROJECTS["fastapi"])
    (folder / ".env").chmod(0o644)
    cli("init")
    assert {name: (folder / name).read_text() for name in (".env", "test_chio.py")} == {
        name: own[name] for name in (".env", "test_chio.py")
    }
    ignored = (folder / ".gitignore").read_text().splitlines()
    assert ignored[0] == "*.pyc"
    assert ignored[3:] == [
        "/from code.db*".replace(" ", r"\ "),
        r"/var/my\ store.sqlite3*",
        "/seed*",
        "*.sqlite3.key",
        "/.env",
    ]
    assert ".env: kept: CHIO_SIDECAR_URL is kept" in cli.out
    assert "test_chio.py: kept: it exists" in cli.out
    assert "other users of this machine can read the settings in .env: chmod 600 .env" in cli.err
    assert "canary" not in cli.out + cli.err


def test_an_application_that_is_governed_already_does_not_begin_to_observe(folder: Path, cli: CommandLine) -> None:
    code = "import chio_fastapi\nchio_fastapi.add_chio(app, sidecar_url='embedded:state/shop.db')\n"
    write(folder, {"main.py": FASTAPI + code})
    assert cli("init").splitlines()[:2] == [
        ".gitignore: written: /state/shop.db*, *.sqlite3.key",
        ".env: written: CHIO_SIDECAR_URL",
    ]
    comment, *settings = (folder / ".env").read_text().splitlines()
    assert settings == ["CHIO_SIDECAR_URL=embedded:state/shop.db"]
    assert "observes" not in comment


def test_a_configured_folder_does_not_begin_to_observe(folder: Path, cli: CommandLine) -> None:
    write(folder, {"main.py": FASTAPI, ".env": "chio_sidecar_url=http://127.0.0.1:9090\n"})
    cli("init")
    assert (folder / ".env").read_text() == "chio_sidecar_url=http://127.0.0.1:9090\n"
    assert (folder / ".gitignore").read_text().splitlines()[1:] == ["*.sqlite3.key"]


def test_the_settings_are_for_their_owner_alone(folder: Path, cli: CommandLine) -> None:
    before = os.umask(0)
    try:
        cli("init")
    finally:
        os.umask(before)
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert (folder / ".gitignore").stat().st_mode & 0o777 == 0o666


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(folder: Path, cli: CommandLine) -> None:
    write(folder, PROJECTS["fastapi"])
    before = contents(folder)
    said = cli("init", "--dry-run").splitlines()
    assert said[:3] == [
        ".gitignore: would be written: /chio.sqlite3*, *.sqlite3.key",
        ".env: would be written: CHIO_SIDECAR_URL, CHIO_OBSERVE",
        "test_chio.py: would be written: tests main:app",
    ]
    assert contents(folder) == before


def test_a_folder_without_a_known_application_gets_no_test(folder: Path, cli: CommandLine) -> None:
    write(folder, {"my-app.py": FASTAPI, "big.py": FASTAPI + "#" * 1_000_000, "latin.py": "app = 1"})
    (folder / "latin.py").write_bytes(b"# \xe4\nfrom fastapi import FastAPI\napp = FastAPI()\n")
    os.mkfifo(folder / "main.py")  # is not read: that would wait for ever
    assert "chio-sidecar init MODULE:APP" in cli("init")
    assert not (folder / "test_chio.py").exists()


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({"backend/manage.py": MANAGE, "backend/mysite/settings.py": SETTINGS}, "backend"),
        ({"pyproject.toml": "", "apps/api/pyproject.toml": "", "apps/api/shop/main.py": FASTAPI}, "apps/api"),
    ],
)
def test_an_application_in_a_project_of_its_own_is_named_and_nothing_is_written(
    files: dict[str, str], place: str, folder: Path, cli: CommandLine
) -> None:
    write(folder, files)
    before = contents(folder)
    error = cli.fails("init")
    assert f"the application is in {place}, a project of its own" in error
    assert f"cd {place} && chio-sidecar init" in error
    assert contents(folder) == before


def test_the_search_ends_in_a_folder_of_any_size_and_depth(folder: Path, cli: CommandLine) -> None:
    write(folder, {f"{'/'.join('abcdefgh')}/main.py": FASTAPI} | {f"x{number}/y.py": "" for number in range(600)})
    (folder / "z").mkdir()
    (folder / "z" / "loop").symlink_to(folder)
    assert "chio-sidecar init MODULE:APP" in cli("init")


def test_an_application_that_is_named_is_tested_as_asgi(folder: Path, cli: CommandLine) -> None:
    write(folder, {"own.py": "async def app(scope, receive, send): ...\n"})
    told = cli("init", "own:app")
    assert "app = ChioASGIMiddleware(app)" in told
    assert "from own import app" in (folder / "test_chio.py").read_text()


def remove(folder: Path) -> None:
    folder.rmdir()


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "the folder is gone": (remove, "the current folder cannot be used"),
    ".env is a folder": (lambda folder: (folder / ".env").mkdir(), ".env is no regular file"),
    ".gitignore is a pipe": (lambda folder: os.mkfifo(folder / ".gitignore"), ".gitignore is no regular file"),
    ".gitignore is not text": (lambda folder: (folder / ".gitignore").write_bytes(b"\xff"), "is not UTF-8 text"),
    ".env is a link to nothing": (lambda folder: (folder / ".env").symlink_to("no/where"), "cannot write "),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_folder_that_cannot_be_used_is_an_error_that_names_the_file(
    name: str, folder: Path, cli: CommandLine
) -> None:
    prepare, text = UNUSABLE[name]
    prepare(folder)
    assert text in cli.fails("init")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_read_only_stays_as_it_is(folder: Path, cli: CommandLine) -> None:
    folder.chmod(0o555)
    try:
        assert f"cannot write {folder}/.gitignore: Permission denied" in cli.fails("init")
    finally:
        folder.chmod(0o755)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("place", ["main", "main:app; import os", "-:app", "no_module:app"])
def test_what_is_no_application_here_is_refused(place: str, folder: Path, cli: CommandLine) -> None:
    assert "suggested fix" in cli.fails("init", "--", place)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("place", [None, "mysite.wsgi:application"])
def test_a_django_project_is_one_also_by_the_name_of_its_application(
    place: str | None, folder: Path, cli: CommandLine
) -> None:
    write(folder, PROJECTS["django"] | {"mysite/wsgi.py": "application = object()\n"})
    assert "mysite/settings.py write:" in cli("init", *filter(None, [place]))
    assert "SimpleTestCase" in (folder / "test_chio.py").read_text()


def test_the_store_that_the_environment_names_is_ignored_too(
    folder: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", "embedded:own.db")
    assert "/chio.sqlite3*, /own.db*, *.sqlite3.key" in cli("init")
