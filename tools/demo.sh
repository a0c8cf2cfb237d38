#!/bin/sh
# Shows the system at work on a throw-away daemon: `make run` calls this after building.
#
# Every step is a heading, the command line, and its output. Nothing is left behind: the daemon,
# its mount and its directory go at the end, also after a failure or Ctrl-C.
# Environment: AGENTFENSE_BIN, the folder of the programs (default build/release/bin).
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${AGENTFENSE_BIN:-$root/build/release/bin}
PATH=$bin:$PATH
dir=
daemon=

die() {
    echo "demo: $*" >&2
    exit 1
}

cleanup() {
    code=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$daemon" ]; then
        kill -TERM "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    if [ -n "$dir" ]; then
        if mountpoint -q "$dir/mnt"; then
            umount -l "$dir/mnt" || true
        fi
        rm -rf --one-file-system "$dir"
    fi
    exit "$code"
}

# A heading.
step() {
    if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
        printf '\n\033[1m== %s\033[0m\n' "$*"
    else
        printf '\n== %s\n' "$*"
    fi
}

# A command line as one would type it, then its output.
show() {
    line=
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./=-]*) line="$line '$word'" ;;
        *) line="$line $word" ;;
        esac
    done
    printf '$%s\n' "$line"
    "$@" 2>&1
}

# The same for a command that must fail.
refused() {
    if show "$@"; then
        die "that should have been refused"
    fi
}

# Runs a shell line as the agent.
agent() { show agentfense exec --no-stdin "$sandbox" -- sh -c "$1"; }
agent_refused() { refused agentfense exec --no-stdin "$sandbox" -- sh -c "$1"; }

[ "$(id -u)" = 0 ] || die "this needs root: the daemon mounts a file system and makes users"
for program in agentfensed agentfense agentfense-fsctl; do
    [ -x "$bin/$program" ] || die "there is no $bin/$program: run make first"
done

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
dir=$(mktemp -d "${TMPDIR:-/tmp}/agentfense-demo-XXXXXX")
export AGENTFENSE_SOCKET="$dir/socket"

step "A daemon on a throw-away state directory"
echo "\$ agentfensed --state $dir/state --socket $dir/socket --mount $dir/mnt &"
agentfensed --state "$dir/state" --socket "$dir/socket" --mount "$dir/mnt" \
    >"$dir/out" 2>"$dir/log" &
daemon=$!
tries=0
until grep -qx ready "$dir/out"; do
    kill -0 "$daemon" 2>/dev/null || die "the daemon did not start: $(cat "$dir/log")"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || die "the daemon is not ready after a minute: $(cat "$dir/log")"
    sleep 0.1
done
cat "$dir/out" "$dir/log"

step "A project with things an agent has no business with"
cp -R "$root/examples/hello" "$dir/hello"
show ls -lA "$dir/hello" "$dir/hello/secrets"

step "A codebase of it, and a sandbox with the preset agent-safe"
echo "\$ agentfense create $dir/hello --preset agent-safe"
sandbox=$(agentfense create "$dir/hello" --preset agent-safe)
echo "$sandbox"

step "What the agent sees: no .env, no secrets"
agent 'id -un; pwd; ls -lA'
agent_refused 'cat .env secrets/db.json'

step "It reads and runs the code, and cannot change it"
agent 'sh run.sh agent; python3 src/hello.py 2>/dev/null || head -n 3 src/hello.py'
agent_refused 'echo broken > src/hello.py'
agent_refused 'rm run.sh'

step "It writes to output"
agent 'mkdir -p output && wc -l src/* > output/report && cat output/report'

step "There is no network and no privilege"
agent 'tail -n +3 /proc/net/dev | cut -d: -f1'
agent 'grep -E "^(CapEff|NoNewPrivs|Seccomp):" /proc/self/status'

step "From outside: the views"
show agentfense-fsctl views

step "From outside: the tree with levels, hidden names included"
show agentfense-fsctl tree --all "$sandbox"

step "From outside: why is that hidden?"
show agentfense-fsctl explain "$sandbox" secrets/db.json

step "From outside: what did it change?"
show agentfense-fsctl diff "$sandbox"

step "From outside: one file, and the daemon"
show agentfense-fsctl stat "$sandbox" output/report
echo '$ agentfense-fsctl stats | head -n 20'
agentfense-fsctl stats | head -n 20

step "The sandbox goes, with all it made"
show agentfense rm "$sandbox"
show agentfense ls

step "All of it in one line, on a directory: the changes come back when asked to"
show agentfense run --no-stdin --apply --diff "$dir/hello" --permission '/src/**=write' -- \
    sed -i 's/Hello/Good morning/' src/hello.py
echo "\$ grep -n morning $dir/hello/src/hello.py"
grep -n morning "$dir/hello/src/hello.py"

step "Done: the daemon stops, nothing stays"
