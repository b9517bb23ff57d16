#!/usr/bin/env bash
# PostgreSQL with PostGIS from Debian's own packages, where they are absent.
set -euo pipefail
version=15
bin=${POSTGRES_BIN:-/usr/lib/postgresql/$version/bin}
extension=/usr/share/postgresql/$version/extension/postgis.control
if [[ -x $bin/postgres && ( -n ${POSTGRES_BIN:-} || -e $extension ) ]]; then
    exit 0
fi
packages=(postgresql-$version postgresql-$version-postgis-3)
if [[ $(id -u) -ne 0 ]]; then
    echo "install.sh: ${packages[*]} are not installed: ask root to apt-get install them," \
        "or name the folder of another PostgreSQL with PostGIS in POSTGRES_BIN." >&2
    exit 1
fi
if ! command -v apt-get > /dev/null; then
    echo "install.sh: no apt-get here: install PostgreSQL $version with PostGIS 3 and name" \
        "the folder of its programs in POSTGRES_BIN." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${packages[@]}" > /dev/null
