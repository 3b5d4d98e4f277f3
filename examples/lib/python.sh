# Sourced by run.sh and smoke.sh of the examples: sets `python`, an interpreter that has this project.
# VENV names an environment to be used as it is; without it the repository's .venv is made, or brought up to date.
root=$(cd "$(dirname "$0")/../.." && pwd)
python=$(sh "$root/scripts/python.sh")
export PYTHONPATH="$root:$root/adapters${PYTHONPATH:+:$PYTHONPATH}"
