# Installs the lowest version of every dependency that pyproject.toml allows, and runs the tests that depend on them.
. "$(dirname "$0")/venv.sh"
floors=$root/.venv-floors

"$python" -m venv --clear "$floors"
"$python" scripts/requirements.py lowest >"$floors/lowest.txt"
"$python" scripts/requirements.py tools >"$floors/tools.txt"
extras=$("$python" scripts/requirements.py extras)
echo "the floors: $(tr '\n' ' ' <"$floors/lowest.txt")"
"$floors/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$floors/lowest.txt" -r "$floors/tools.txt" -e ".[$extras]"

# Warnings are allowed: old releases warn about each other, and this checks only whether the code works with them.
# Only these folders depend on libraries' versions; the other tests would run the same code again.
exec "$floors/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile -W default -m "not slow" \
    tests/core tests/carrier tests/asgi tests/chain tests/fastapi tests/django tests/flask tests/guards tests/outbound tests/views "$@"
