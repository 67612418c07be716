#!/bin/busybox sh
# PID 1 of a guest: makes a small Linux of what lies in memory, runs what is
# in /tests/list, and says on the second serial line what came of it, in
# sections that report.rs reads. The kernel talks on the first one.
/bin/busybox --install -s /bb
export PATH=/usr/bin:/bb HOME=/root RUST_BACKTRACE=1

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up

exec </dev/null >/dev/ttyS1 2>&1
# No carriage returns in the report.
stty raw -echo </dev/ttyS1

section() {
    echo "@@ begin $1"
    began=$(cut -d. -f1 /proc/uptime)
}
close() {
    echo "@@ end $1 $2 $(($(cut -d. -f1 /proc/uptime) - began))"
}

# As high as a login of a real machine may raise it: some tests need 20,000 descriptors.
ulimit -H -n 524288
# The unit's LimitMEMLOCK=.
ulimit -l unlimited

section uname
uname -r
close uname $?

section modules
status=0
for module in /modules/*.ko; do
    insmod "$module" || status=1
done
close modules $status

section doctor
/tcpwatch doctor --json 2>/dev/ttyS0
close doctor $?

. /tests/environment

# Everything that could be skipped must run, these kernels have every hook, and emulation takes its
# time.
export TCPWATCH_REQUIRE_ALL=1 TCPWATCH_REQUIRE_HOOKS=1 TCPWATCH_SLOW=4
# The capabilities of the unit, which agents run with as a user of their own; before 6.1 with those of
# its drop-in.
unit=bpf,perfmon,sys_ptrace
case $(uname -r) in
5.*) unit=$unit,sys_admin ;;
esac
while read -r name filter; do
    section "$name"
    cd /tests
    # Its agents start as root, because it tests which privileges they give up.
    capabilities=$unit
    [ "$name" = privileges ] && capabilities=
    export TCPWATCH_CAPABILITIES="$capabilities"
    # $filter is libtest's words or none. One test at a time: what the hooks count is
    # then its own, and "at least" cannot come true by another's doing. The
    # limit is more than four times the time that they take.
    timeout -s KILL 900 "/tests/$name" --test-threads 1 $filter
    close "$name" $?
done </tests/list

# The recordings, if there are any.
for file in /incidents/*.json*; do
    [ -f "$file" ] || continue
    section "${file##*/}"
    cat "$file"
    close "${file##*/}" $?
done

section done
close done 0
sync
poweroff -f
