# Functions to run octopiid processes on this machine and to ask them things
# with etcdctl. Sourced by the scripts beside it. Needs bash, coreutils, grep
# and sed; nothing that parses JSON.
#
# The sourcing script sets -euo pipefail and calls cluster_begin first.

# cluster_begin makes the work folder, the two binaries and the cleanup.
# OCTOPIID=FILE or ETCDCTL=FILE uses that binary instead of building one.
cluster_begin() {
	root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
	work=$(mktemp -d "${TMPDIR:-/tmp}/octopii.XXXXXX")
	declare -gA pid=() client=() peer=()
	trap cluster_end EXIT
	trap 'exit 130' INT TERM
	octopiid=${OCTOPIID:-$work/octopiid}
	etcdctl=${ETCDCTL:-$work/etcdctl}
	[[ -n ${OCTOPIID:-} ]] || (cd "$root" && go build -o "$octopiid" ./cmd/octopiid)
	[[ -n ${ETCDCTL:-} ]] || (cd "$root/scripts/etcdctl" && go build -o "$etcdctl" .)
	[[ -x $octopiid ]] || fail "no program at OCTOPIID=$octopiid"
	[[ -x $etcdctl ]] || fail "no program at ETCDCTL=$etcdctl"
	next_port=$((20000 + RANDOM % 10000))
	local name
	for name in n1 n2 n3 n4; do
		take_port && client[$name]=127.0.0.1:$port
		take_port && peer[$name]=127.0.0.1:$port
	done
}

# cluster_end ends what this script started, by process ID, and keeps the work
# folder only when the script failed.
cluster_end() {
	local status=$? name
	trap '' INT TERM
	for name in "${!pid[@]}"; do kill_hard "$name"; done
	if ((status == 0)) || [[ ! -d $work ]]; then
		rm -rf "$work"
	else
		rm -f "$work/octopiid" "$work/octopiictl" "$work/etcdctl"
		rmdir "$work" 2>/dev/null || echo "data and logs are kept in $work" >&2
	fi
}

# take_port sets $port to one on which nobody listens. The range lies below the
# one from which systems draw the ports of outgoing connections.
take_port() {
	while (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do next_port=$((next_port + 1)); done
	port=$next_port
	next_port=$((next_port + 1))
}

# start NAME FLAG... starts a member; the same flags on every start.
start() {
	local name=$1
	shift
	"$octopiid" start --name "$name" --data-dir "$work/$name" \
		--client-addr "${client[$name]}" --peer-addr "${peer[$name]}" "$@" \
		>>"$work/$name.log" 2>&1 &
	pid[$name]=$!
	[[ -z ${VERBOSE:-} ]] || echo "started $name: pid $!, clients ${client[$name]}, peers ${peer[$name]}"
}

# kill_hard NAME ends a member as a crash would and waits until it is gone.
kill_hard() {
	local p=${pid[$1]:-}
	[[ -n $p ]] || return 0
	unset "pid[$1]"
	kill -9 "$p" 2>/dev/null || true
	wait "$p" 2>/dev/null || true
}

# fail says what went wrong and shows the end of every member's log.
fail() {
	echo "FAIL: $*" >&2
	local log
	for log in "$work"/n*.log; do
		[[ -e $log ]] || continue
		echo "--- the end of $(basename "$log")" >&2
		tail -n 20 "$log" | cut -c -300 >&2
	done
	exit 1
}

# all_run fails when a member that was started has ended by itself. WHAT says
# what was going on.
all_run() {
	local name
	for name in "${!pid[@]}"; do
		kill -0 "${pid[$name]}" 2>/dev/null || fail "$name ended by itself during: $1"
	done
}

# wait_for SECONDS WHAT COMMAND... repeats the command until it succeeds. A
# member that ends while it is waited for ends the wait.
wait_for() {
	local limit=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		all_run "the wait for $what"
		((SECONDS < limit)) || fail "waited in vain for: $what"
		sleep 0.1
	done
}

# ctl NAMES ARG... is etcdctl on the named members, separated by commas; it
# ends after 30 seconds, whatever it does.
ctl() {
	local names=$1 endpoints= name
	shift
	for name in ${names//,/ }; do endpoints+=${endpoints:+,}${client[$name]}; done
	timeout 30 "$etcdctl" --endpoints "$endpoints" --dial-timeout 2s --command-timeout 5s "$@"
}

# status_of NAME prints what one member says of itself, as JSON; nothing if it
# does not answer.
status_of() { ctl "$1" endpoint status -w json 2>/dev/null || true; }

# number FIELD takes a number out of JSON on its input; 0 when it is not there.
number() {
	local n
	n=$(sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p")
	echo "${n:-0}"
}

raft_index() { status_of "$1" | number raftIndex; }
applied_index() { status_of "$1" | number raftAppliedIndex; }

# answers NAME: it serves clients.
answers() { [[ -n $(status_of "$1") ]]; }

# applied NAME INDEX: it has applied at least that entry.
applied() { (($(applied_index "$1") >= $2)); }

# leads NAME: it says of itself that it is the leader.
leads() {
	local status
	status=$(status_of "$1")
	[[ $(number leader <<<"$status") == "$(number member_id <<<"$status")" && $(number leader <<<"$status") != 0 ]]
}

# find_leader NAME... sets $leader to the one that leads.
find_leader() {
	for leader in "$@"; do ! leads "$leader" || return 0; done
	return 1
}

# voters NAME COUNT: the member list on NAME has COUNT members, none a learner.
voters() {
	local list
	list=$(ctl "$1" member list -w json 2>/dev/null) || return 1
	[[ $(grep -o '"ID":' <<<"$list" | wc -l) == "$2" ]] && ! grep -q '"isLearner":true' <<<"$list"
}
