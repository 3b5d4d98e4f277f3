# Sourced by the other scripts: changes to the repository's root and sets `python`, an interpreter that has this
# project, all its extras and its development tools.
#
# VENV names an environment to use without changes. Otherwise .venv is created, or updated if pyproject.toml or uv.lock
# changed: by uv if that is on PATH, else with venv and pip, at the same locked versions.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

find_python() {
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        # Debian's python3 lacks ensurepip until python3-venv is installed; a later candidate may have it.
        if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.11 or newer with venv was found on PATH; install one (Debian: python3-venv), or uv" >&2
    return 1
}

with_uv() {
    echo "preparing .venv with uv …" >&2
    uv sync --quiet --frozen --all-extras && touch .venv/.by-uv
}

with_pip() {
    echo "preparing .venv with pip; this takes a minute the first time …" >&2
    if [ -e .venv/.by-uv ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        interpreter=$(find_python)
        "$interpreter" -m venv --clear .venv
    fi
    .venv/bin/python scripts/requirements.py locked >.venv/locked.txt
    .venv/bin/python scripts/requirements.py tools >.venv/tools.txt
    extras=$(.venv/bin/python scripts/requirements.py extras)
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        -c .venv/locked.txt -r .venv/tools.txt -e ".[$extras]"
}

prepare() {
    # The stamp contains the path: a copied .venv still points to its original place.
    stamp="$root $(cat pyproject.toml uv.lock scripts/venv.sh scripts/requirements.py | cksum)"
    if [ "$(cat .venv/.stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    rm -f .venv/.stamp
    if ! command -v uv >/dev/null 2>&1 || ! with_uv; then
        with_pip
    fi
    echo "$stamp" >.venv/.stamp
}

if [ -n "${VENV:-}" ]; then
    # The environment need not have this checkout installed.
    python=$VENV/bin/python
    export PYTHONPATH="$root:$root/adapters${PYTHONPATH:+:$PYTHONPATH}"
else
    prepare
    python=$root/.venv/bin/python
fi
