#!/bin/sh
# Make the secrets of compose.yaml once, in deploy/secrets (ignored by git): random, and never printed. Run as root: the
# containers read them as other users.
set -eu
folder="$(cd "$(dirname "$0")" && pwd)/secrets"
if [ "$(id -u)" != 0 ]; then
    echo "run as root: sudo sh $0" >&2
    exit 1
fi
if [ -e "$folder" ]; then
    echo "$folder is there already; remove it, and the volume of the database, to begin with new secrets" >&2
    exit 1
fi
random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
owner=$(random) sidecar=$(random) token=$(random) evaluate=$(random)

umask 077
mkdir "$folder"
printf 'CHIO_SIDECAR_CONTROL_TOKEN=%s\nCHIO_SIDECAR_EVALUATE_TOKEN=%s\n' "$token" "$evaluate" >"$folder/sidecar.env"
printf 'CHIO_EVALUATE_TOKEN=%s\n' "$evaluate" >"$folder/application.env"
printf 'database:5432:chio:chio_owner:%s\ndatabase:5432:chio:chio_sidecar:%s\n' "$owner" "$sidecar" >"$folder/pgpass"
chown 10001 "$folder/pgpass" # the user of the sidecar; libpq ignores a password file that others can read

# Read by other users inside their containers; on this machine the folder keeps others out.
umask 022
printf '%s' "$owner" >"$folder/owner-password"
printf '%s' "$token" >"$folder/control-token"
printf "CREATE ROLE chio_sidecar LOGIN PASSWORD '%s';\n" "$sidecar" >"$folder/sidecar-role.sql"
echo "made $folder"
