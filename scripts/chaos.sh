# The tests that only make sense at full size: many kills, many cancellations, long loads.
. "$(dirname "$0")/venv.sh"
exec "$python" -m pytest -m slow --full -o faulthandler_timeout=0 "$@"
