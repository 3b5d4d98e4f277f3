# Runs the smoke tests of the hello examples, which print each step: fastapi, or the frameworks that are given
# (fastapi, django, flask, or all).
. "$(dirname "$0")/venv.sh"
VENV=$(dirname "$(dirname "$python")")
export VENV
case "${*:-fastapi}" in
    all) set -- fastapi django flask ;;
    fastapi) set -- fastapi ;;
esac
for framework in "$@"; do
    smoke=examples/hello-$framework/smoke.sh
    if [ ! -x "$smoke" ]; then
        echo "there is no example hello-$framework; name fastapi, django, flask or all" >&2
        exit 2
    fi
    "$smoke"
    [ $# -eq 1 ] || echo
done
