# Prints the path of the interpreter that the other scripts use, and creates its environment if necessary.
. "$(dirname "$0")/venv.sh"
echo "$python"
