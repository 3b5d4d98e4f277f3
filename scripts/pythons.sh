# Runs the quick part of the test suite on each Python that is installed here, 3.11 to 3.14, each in an environment of its
# own (.venv-py3.12). `PYTHONS="3.12 3.13"` names others; arguments go to pytest. A version that is missing is named at the end.
set -eu
cd "$(dirname "$0")/.."
unset VIRTUAL_ENV PYTHONPATH PYTHONDONTWRITEBYTECODE

# What depends on the language and on its libraries. The other folders start commands, browsers and environments.
parts="tests/asgi tests/carrier tests/chain tests/core tests/django tests/faces tests/fastapi tests/flask tests/guards
    tests/outbound tests/plugin tests/sidecar tests/viewer tests/views"

interpreter_of() {
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" -c "import ensurepip, sys; sys.exit(f'{sys.version_info.major}.{sys.version_info.minor}' != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    ! command -v uv >/dev/null 2>&1 || uv python find --no-python-downloads "$1" 2>/dev/null || true
}

prepare() { # version, interpreter
    if command -v uv >/dev/null 2>&1; then
        UV_PROJECT_ENVIRONMENT=".venv-py$1" uv sync --quiet --frozen --all-extras --python "$2"
        return
    fi
    "$2" -m venv --clear ".venv-py$1"
    environment=".venv-py$1/bin/python"
    "$environment" scripts/requirements.py locked >".venv-py$1/locked.txt"
    "$environment" scripts/requirements.py tools >".venv-py$1/tools.txt"
    "$environment" -m pip install --quiet --disable-pip-version-check \
        -c ".venv-py$1/locked.txt" -r ".venv-py$1/tools.txt" -e ".[$("$environment" scripts/requirements.py extras)]"
}

summary= failed=0
for version in ${PYTHONS:-3.11 3.12 3.13 3.14}; do
    interpreter=$(interpreter_of "$version")
    if [ -z "$interpreter" ]; then
        summary="$summary
$version: not installed here, so nothing was run on it"
        continue
    fi
    prepare "$version" "$interpreter"
    full=$(".venv-py$version/bin/python" -c 'import platform; print(platform.python_version())')
    echo "== Python $full"
    status=0
    # shellcheck disable=SC2086 # several folders
    ".venv-py$version/bin/python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not slow" $parts "$@" || status=$?
    [ "$status" = 0 ] || failed=1
    summary="$summary
$full: $([ "$status" = 0 ] && echo passed || echo "FAILED ($status)"); what it skipped is listed above"
done
echo "== summary$summary"
exit $failed
