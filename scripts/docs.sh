# Builds the site of the pages and the API reference in build/site; warnings and broken links are errors. Arguments go to
# Sphinx, which has an environment of its own and imports this project from that of the other scripts.
. "$(dirname "$0")/venv.sh"
site=$root/.venv-docs

stamp="$root $(cat pyproject.toml uv.lock scripts/docs.sh | cksum)"
if [ "$(cat "$site/.stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "preparing .venv-docs …" >&2
    "$python" -m venv --clear "$site"
    "$python" scripts/requirements.py locked >"$site/locked.txt"
    "$python" scripts/requirements.py docs >"$site/docs.txt"
    "$site/bin/python" -m pip install --quiet --disable-pip-version-check -c "$site/locked.txt" -r "$site/docs.txt"
    echo "$stamp" >"$site/.stamp"
fi

# Both environments have versions of the same lock, so the order does not matter.
packages=$("$site/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH="$root:$root/adapters:$packages${PYTHONPATH:+:$PYTHONPATH}"
rm -rf build/site
"$python" -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --write-all --jobs auto \
    -c docs/site -d build/doctrees . build/site "$@"
echo "open build/site/index.html"
