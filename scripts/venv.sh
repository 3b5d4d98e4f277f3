# Sourced by the other scripts: changes to the repository's root and sets `python`, an interpreter that has this
# project, all its extras and its development tools.
#
# VENV names an environment to use without changes. Otherwise .venv is created, or updated if pyproject.toml or uv.lock
# changed: by uv if that is on PATH, else with venv and pip, at the same locked versions.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

# Container images often set it. Tests start hundreds of processes, and each would compile all modules again: half of its start.
unset PYTHONDONTWRITEBYTECODE

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
    echo "preparing .venv with uv: installing the packages of uv.lock …" >&2
    quiet=--quiet
    [ ! -t 2 ] || quiet=  # a terminal gets uv's own progress
    uv sync $quiet --frozen --all-extras && touch .venv/.by-uv
}

with_pip() {
    echo "preparing .venv with pip, 1 of 3: creating it; all three take some minutes the first time …" >&2
    if [ -e .venv/.by-uv ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        interpreter=$(find_python)
        "$interpreter" -m venv --clear .venv
    fi
    echo "preparing .venv with pip, 2 of 3: reading the versions in uv.lock …" >&2
    .venv/bin/python scripts/requirements.py locked >.venv/locked.txt
    .venv/bin/python scripts/requirements.py tools >.venv/tools.txt
    extras=$(.venv/bin/python scripts/requirements.py extras)
    echo "preparing .venv with pip, 3 of 3: installing packages …" >&2
    rm -f .venv/.installed
    {
        PYTHONUNBUFFERED=1 .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
            -c .venv/locked.txt -r .venv/tools.txt -e ".[$extras]" && touch .venv/.installed
    } 2>&1 | tee .venv/install.log | show_packages
    if [ ! -e .venv/.installed ]; then
        echo "pip failed; .venv/install.log ends:" >&2
        tail -n 20 .venv/install.log >&2
        return 1
    fi
}

# show_packages: reads what pip prints, and says how many packages there were: in one line on a terminal.
show_packages() {
    start= end="
"
    [ ! -t 2 ] || start=$(printf '\r\033[K') end=
    count=0
    while read -r word rest; do
        case $word in
            Collecting)
                count=$((count + 1))
                if [ -z "$end" ] || [ $((count % 20)) -eq 0 ]; then
                    printf '%s    %d packages, now %s%s' "$start" "$count" "${rest%% *}" "$end" >&2
                fi
                ;;
            Installing) printf '%s    %d packages, unpacking them …%s' "$start" "$count" "$end" >&2 ;;
        esac
    done
    [ -n "$end" ] || echo >&2
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
