# Functions of the steps.
export LC_ALL=C.UTF-8 SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive
config=/etc/tcpwatch/tcpwatch.toml

# Repeats a command each second until it succeeds; in a guest everything takes its time.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || { echo "not within 150 tries: $*"; return 1; }
        sleep 1
    done
}

main_pid() {
    systemctl show --property MainPID --value tcpwatch
}

# An answer of the agent, with its head.
get() {
    perl -MIO::Socket::INET -e '
        my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:10743") or die "not reached: $!\n";
        print $socket "GET $ARGV[0] HTTP/1.0\r\nHost: localhost\r\n\r\n";
        print while <$socket>;' "$1"
}

metric_is() {
    get /metrics | grep -qx "$1 $2"
}

# The programs of tcpwatch: systemd loads programs of other kinds.
programs() {
    bpftool prog show | grep -cwE "tracing|raw_tracepoint" || true
}

# The unit is active, and with another process than this.
restarted_from() {
    [ "$(systemctl is-active tcpwatch)" = active ] && [ "$(main_pid)" != "$1" ]
}

# Every file on disk with its kind, and every account.
inventory_of_disk() {
    find / -xdev -printf '%y %p\n' | sort
    cut -d: -f1 /etc/passwd /etc/group
}

# Entries of the journal about changes of findings.
changes() {
    journalctl -o json --all -u tcpwatch "TCPWATCH_CHANGE=$1"
}

has_change() {
    [ -n "$(changes "$1")" ]
}
