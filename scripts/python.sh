# Prints the path of the interpreter that the other scripts use, after making its environment where that is needed.
. "$(dirname "$0")/venv.sh"
echo "$python"
