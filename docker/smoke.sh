#!/usr/bin/env bash
# Builds the image, starts a compose file for real, runs the seven lines, kills nodes and Redis under
# load, and checks that nothing acknowledged is lost. Cleans up after itself.
#
#   docker/smoke.sh                        compose.yaml; LOCKSTEP_PROFILE=dev builds faster
#   docker/smoke.sh compose.embedded.yaml  the embedded store, with its volumes
#   BINARY=target/release/lockstep docker/smoke.sh
#                                          takes a binary of this machine instead of compiling in a container
#
# Where base images cannot be pulled, it makes local stand-ins under the same names with debootstrap and
# the Rust toolchain of this machine (needs root). STAND_IN_ONLY=1 does not even try to pull.
set -euo pipefail
cd "$(dirname "$0")/.."

export COMPOSE_PROJECT_NAME=lockstep-smoke
export COMPOSE_FILE=${1:-compose.yaml}
[ -f "$COMPOSE_FILE" ] || { echo "docker/smoke.sh: there is no $COMPOSE_FILE" >&2; exit 2; }
suite=bookworm
work=$(mktemp -d)
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi

services=$("${compose[@]}" config --services | sort | tr '\n' ' ')

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    "${compose[@]}" ps >&2 || true
    "${compose[@]}" logs --tail 20 >&2 || true
    exit 1
}
clean_up() {
    [ -n "${load:-}" ] && kill "$load" 2>/dev/null || true
    "${compose[@]}" down --volumes --remove-orphans >"$work/down.log" 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT

with_redis() { [[ " $services " == *" redis "* ]]; }

# --- base images ---------------------------------------------------------------------------------

have() {
    docker image inspect "$1" >/dev/null 2>&1 && return 0
    [ -n "${STAND_IN_ONLY:-}" ] && return 1
    docker pull --quiet "$1" >/dev/null 2>&1
}
root_with() { # packages: a minimal system as a directory
    debootstrap --variant=minbase --include="$1" "$suite" "$work/root" >"$work/debootstrap.log" 2>&1 \
        || fail "debootstrap: $(tail -n 3 "$work/debootstrap.log")"
    rm -rf "$work/root/var/cache/apt"/*.bin "$work/root/var/cache/apt/archives"/*.deb "$work/root/var/lib/apt/lists"/*
}
import() { # name, further docker import arguments
    tar -C "$work/root" -c . | docker import "${@:2}" - "$1" >/dev/null
    rm -rf "$work/root"
}
base_images() {
    if ! have debian:bookworm-slim; then
        say "stand-in for debian:bookworm-slim"
        root_with ca-certificates
        import debian:bookworm-slim --change 'CMD ["bash"]'
    fi
    if with_redis && ! have redis:7; then
        say "stand-in for redis:7"
        root_with redis-server
        mkdir -p "$work/root/data"
        import redis:7 --change 'WORKDIR /data' --change 'CMD ["redis-server"]'
    fi
    if [ -z "${BINARY:-}" ] && ! have rust:1-slim-bookworm; then
        say "stand-in for rust:1-slim-bookworm"
        root_with ca-certificates,gcc,libc6-dev
        mkdir -p "$work/root/usr/local/rust" "$work/root/usr/local/cargo"
        cp -a "$(rustc --print sysroot)/." "$work/root/usr/local/rust/"
        rm -rf "$work/root/usr/local/rust/share"
        # What this machine has downloaded already need not be reachable from a container.
        cargo fetch --locked --quiet
        cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$work/root/usr/local/cargo/"
        for file in config.toml config; do
            [ -f "${CARGO_HOME:-$HOME/.cargo}/$file" ] && cp "${CARGO_HOME:-$HOME/.cargo}/$file" "$work/root/usr/local/cargo/"
        done
        import rust:1-slim-bookworm --change 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
            --change 'ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true'
    fi
}

# --- the cluster ---------------------------------------------------------------------------------

healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$("${compose[@]}" ps --quiet "$1")" 2>/dev/null)" = healthy ]; }
wait_healthy() {
    for service in "$@"; do
        for _ in $(seq 240); do healthy "$service" && continue 2; sleep 0.5; done
        fail "$service is not healthy"
    done
}
container() { "${compose[@]}" ps --quiet "$1"; }
expect() { # what, wanted, answer
    case "$3" in *"$2"*) printf '%-9s %s\n' "$1" "$3" ;; *) fail "$1: no $2 in: $3" ;; esac
}

seven_lines() {
    local json='Content-Type: application/json'
    for port in 8001 8002 8003; do expect leader '"leader":{"id":' "$(curl -sS http://localhost:$port/leader)"; done
    expect acquire '"acquired":true' "$(curl -sS -X POST http://localhost:8001/lock/acquire -H "$json" -d '{"name":"resA","mode":"exclusive","owner":"client1"}')"
    expect release '"released":true' "$(curl -sS -X POST http://localhost:8001/lock/release -H "$json" -d '{"name":"resA","owner":"client1"}')"
    expect push '"id":' "$(curl -sS -X POST http://localhost:8001/queue/push -H "$json" -d '{"key":"user:123","payload":"hello"}')"
    expect pop '"payload":"hello"' "$(curl -sS http://localhost:8002/queue/pop)"
    expect set '"version":' "$(curl -sS -X POST http://localhost:8003/cache/set -H "$json" -d '{"key":"k1","value":"v1"}')"
    expect get '"value":"v1"' "$(curl -sS 'http://localhost:8002/cache/get?k=k1')"
}

# Pushes numbers, each under a request id of its own until it is acknowledged, and writes down which were.
push_load() {
    local number=0 port
    while :; do
        number=$((number + 1))
        for try in $(seq 600); do
            port=$((8001 + (number + try) % 3))
            if curl -sS -m 4 -X POST "http://localhost:$port/queue/push" -H 'Content-Type: application/json' \
                -d "{\"queue\":\"smoke\",\"payload\":$number,\"request_id\":\"smoke-$number\"}" 2>/dev/null | grep -q '"id":'; then
                echo "$number" >>"$work/acknowledged"
                break
            fi
            sleep 0.1
        done
    done
}
acknowledged() { wc -l <"$work/acknowledged"; }
goes_on() { # at least this many more, within a minute
    local goal=$(($(acknowledged) + $1))
    for _ in $(seq 240); do [ "$(acknowledged)" -ge "$goal" ] && return 0; sleep 0.25; done
    fail "the load stands still at $(acknowledged)"
}
drain() { # everything that is in the queue, one number a line
    local answer empty=0
    while [ "$empty" -lt 2 ]; do
        answer=$(curl -sS -m 10 'http://localhost:8001/queue/pop?queue=smoke')
        case "$answer" in
        *'"message":null'*) empty=$((empty + 1)) ;;
        *'"payload":'*) printf '%s\n' "$answer" | sed 's/.*"payload":\([0-9]*\).*/\1/' ;;
        *) fail "pop: $answer" ;;
        esac
    done
}

base_images
# The image as the Dockerfile describes it; with BINARY, its second stage around that binary.
build_image() {
    if [ -z "${BINARY:-}" ]; then
        docker build --build-arg PROFILE="${LOCKSTEP_PROFILE:-release}" -f docker/Dockerfile -t lockstep:latest .
        return
    fi
    mkdir "$work/image"
    install "$BINARY" "$work/image/lockstep"
    sed '1,/^FROM debian/{/^FROM debian/!d}; s|^COPY --from=build /out/lockstep|COPY lockstep|' docker/Dockerfile >"$work/image/Dockerfile"
    docker build -t lockstep:latest "$work/image"
}

say "build (${BINARY:-profile ${LOCKSTEP_PROFILE:-release}})"
build_image >"$work/build.log" 2>&1 || fail "build: $(tail -n 20 "$work/build.log")"
docker image inspect --format 'lockstep:latest {{.Size}} bytes, user {{.Config.User}}' lockstep:latest
say "start"
"${compose[@]}" up --detach >"$work/up.log" 2>&1 || fail "up: $(tail -n 20 "$work/up.log")"
wait_healthy $services
say "the seven lines"
seven_lines

say "load"
: >"$work/acknowledged"
push_load &
load=$!
goes_on 100
leader=node$(curl -sS http://localhost:8001/leader | sed 's/.*"leader":{"id":\([0-9]*\).*/\1/')
say "kill -9 $leader, which leads"
docker kill "$(container "$leader")" >/dev/null
goes_on 50
"${compose[@]}" up --detach "$leader" >>"$work/up.log" 2>&1
wait_healthy "$leader"
if with_redis; then
    say "kill -9 redis"
    docker kill "$(container redis)" >/dev/null
    sleep 2
    docker start "$(container redis)" >/dev/null 2>&1 || "${compose[@]}" up --detach redis >>"$work/up.log" 2>&1
    goes_on 50
fi
say "kill -9 everything"
for service in $services; do docker kill "$(container "$service")" >/dev/null; done
"${compose[@]}" up --detach >>"$work/up.log" 2>&1
wait_healthy $services
goes_on 50
if with_redis; then
    say "replace $leader by a new container, which has nothing"
    "${compose[@]}" rm --force --stop "$leader" >>"$work/up.log" 2>&1
    "${compose[@]}" up --detach "$leader" >>"$work/up.log" 2>&1
    wait_healthy "$leader"
    goes_on 20
fi
kill "$load" 2>/dev/null && wait "$load" 2>/dev/null || true
load=

say "nothing acknowledged is lost, nothing is there twice"
drain >"$work/drained"
sort "$work/acknowledged" >"$work/a"
sort "$work/drained" >"$work/d"
lost=$(comm -23 "$work/a" "$work/d" | wc -l)
twice=$(uniq --repeated "$work/d" | wc -l)
echo "acknowledged $(wc -l <"$work/a"), delivered $(wc -l <"$work/d"), lost $lost, twice $twice"
[ "$lost" = 0 ] && [ "$twice" = 0 ] || fail "messages were lost or delivered twice"
seven_lines >/dev/null
if ! with_redis; then
    say "$leader comes back without its volume, and is refused"
    "${compose[@]}" rm --force --stop "$leader" >>"$work/up.log" 2>&1
    docker volume rm "${COMPOSE_PROJECT_NAME}_$leader" >/dev/null
    "${compose[@]}" up --detach "$leader" >>"$work/up.log" 2>&1
    # All of the log first: who is no longer read from fails, and with it the whole pipe.
    refused() { grep -m 1 -o 'has an empty data directory, but node . knows it' <<<"$("${compose[@]}" logs "$leader" 2>&1)"; }
    for _ in $(seq 120); do refused >/dev/null && break; sleep 0.5; done
    refused || fail "$leader came back empty"
fi
say "ok"
