# Runs the tests of tests/long.txt: whole applications, browsers, other frameworks, pages, load, and what is built
# and installed.
# Arguments go to pytest.
. "$(dirname "$0")/venv.sh"
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile @tests/long.txt "$@"
