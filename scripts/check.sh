# Checks format, lint and types. Each check runs even if one before it fails.
. "$(dirname "$0")/venv.sh"
failed=0
"$python" -m ruff format --check . || failed=1
"$python" -m ruff check . || failed=1
"$python" -m mypy || failed=1
"$python" -m mypy scripts examples/lib || failed=1
"$python" -m mypy tests/typing || failed=1
exit $failed
