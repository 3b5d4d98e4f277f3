# Runs the slow tests at full size: many kills, many cancellations, long loads. Arguments go to pytest.
. "$(dirname "$0")/venv.sh"
exec "$python" -m pytest -m slow --full -o faulthandler_timeout=0 "$@"
