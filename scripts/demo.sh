# The smoke test of hello-fastapi, which tells what it saw.
. "$(dirname "$0")/venv.sh"
VENV=$(dirname "$(dirname "$python")") exec examples/hello-fastapi/smoke.sh "$@"
