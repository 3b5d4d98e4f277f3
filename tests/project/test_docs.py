"""The pages say what the code says: generated tables, figures, links and paths."""

from __future__ import annotations

import csv
import re
import sys
import tomllib

from tests.conformance.drivers import DRIVERS
from tests.examples.running import run
from tests.hostile import BEHAVIOURS
from tests.project.tree import ROOT, modules, packages, place

PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
INSTALL = re.compile(r"\b(?:pip install|pipx install|uv add|uv tool install|uvx --from) ([^`#\n]+)")
PATH = re.compile(r"`([\w./-]+\.(?:py|toml|md|csv|json|jsonl|sh|js|css|html))`")


def test_the_tables_are_those_of_the_code() -> None:
    done = run(sys.executable, "scripts/tables.py", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_outcomes_covers_every_behaviour_that_is_tested() -> None:
    text = (ROOT / "docs" / "outcomes.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- outcomes -->\n(.*?)<!-- /outcomes -->", text, re.DOTALL)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]
    told: dict[str, set[str]] = {}
    for _, status, code, *_ in rows:
        told.setdefault(code.strip("`"), set()).update(re.findall(r"\b[2-5]\d\d\b", status))
    passing = {code.strip("`") for _, _, code, _, fail_open in rows if "passes" in fail_open}
    with (ROOT / "tests" / "conformance" / "outcomes.csv").open(newline="") as file:
        for cell in csv.DictReader(file):
            if cell["passthrough"] != "-":
                assert cell["passthrough"] in passing, cell
            if cell["code"] != "-":
                # A deny may state any status that refuses.
                own = cell["code"] == "chio_access_denied" and 400 <= int(cell["status"]) <= 599
                assert own or cell["status"] in told[cell["code"]], cell


def test_each_table_is_on_one_page_only() -> None:
    for marker in ("<!-- outcomes -->", "<!-- settings -->", "<!-- commands -->", "<!-- tree -->"):
        assert sum(marker in page.read_text(encoding="utf-8") for page in PAGES) == 1, marker


def test_the_promises_name_tests_that_exist_and_the_size_of_the_table_of_outcomes() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert all(PATH.search(row) for row in rows)
    assert not [path for path in PATH.findall(text) if not (ROOT / path).is_file()]
    behaviours, ways = len(BEHAVIOURS), len(DRIVERS)
    cells = f"{behaviours} behaviours of a sidecar, with and without `fail_open`, in {ways} ways to evaluate: "
    assert f"{cells}{2 * behaviours * ways:,} cells" in rows[0]


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            linked = (page.parent / target) if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in anchors(linked.read_text(encoding="utf-8")), f"{page.name} links to {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_path_in_the_contributing_page_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w[\w.-]*/)+(?:[\w-]+\.\w+)?|[A-Z]+\.md|pyproject\.toml)`", text)
    missing = [path for path in named if "NAME" not in path and not (ROOT / path).exists()]
    assert len(named) > 100
    assert not missing


def test_the_names_in_the_contributing_page_are_in_the_file_before_them() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inside = re.findall(r"`(\w+)`\s+in\s+`([\w./]+\.py)`|`([\w./]+\.py)`[^`()]*\(`(\w+)`", text)
    found = {(path or other, name or another) for name, path, other, another in inside}
    assert len(found) >= 12
    for path, name in found:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{name} is not in {path}"


def test_the_pages_of_the_frameworks_have_the_same_plan() -> None:
    plan = ["Install", "Govern", "Read the receipt", "Require a capability", "Guards"]
    plan += ["Observe", "Settings", "Metrics", "Test", "Limits"]
    for name in ("asgi", "fastapi", "django", "flask"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == plan, name


def test_what_installs_this_distribution_names_a_checkout_or_a_wheel() -> None:
    """No package index has it: its name there fails, or installs what another author has put there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wheel = f"chio_frameworks-{project['version']}-py3-none-any.whl"
    sources = [path for folder in packages().values() for path in modules(folder)]
    seen = 0
    for path in (*PAGES, ROOT / "docs" / "llms.txt", *(ROOT / "deploy").glob("Containerfile*"), *sources):
        for command in INSTALL.findall(path.read_text(encoding="utf-8")):
            assert not re.search(r"chio[-_]frameworks", command.replace(wheel, "")), f"{place(path)}: {command}"
            for extras in re.findall(r"(?:'\.|\.whl)\[([\w,]+)\]", command):
                seen += 1
                assert set(extras.split(",")) <= set(project["optional-dependencies"]), f"{place(path)}: {command}"
    assert seen >= 10
