# Takes the steps in a guest, and says on the second serial line what came of each; report.rs reads
# it. systemd runs this as a service, so the guest is as booted as a host.
exec </dev/null >/dev/ttyS1 2>&1
# No carriage returns in the report.
stty raw -echo </dev/ttyS1
cd /run/e2e || exit
# A boot that hangs is a failure of the first step, not of the deadline.
timeout 120 systemctl is-system-running --wait >/dev/null

number=0
while [ -f "steps/$number" ]; do
    echo "@@ begin $number"
    # Five starts in ten minutes are the unit's limit, and systemd counts those by hand too.
    systemctl reset-failed tcpwatch 2>/dev/null
    began=$(cut -d. -f1 /proc/uptime)
    timeout -s KILL 400 sh -ec '. ./prelude.sh; . "./steps/$1"' sh "$number"
    status=$?
    echo
    echo "@@ end $number $status $(($(cut -d. -f1 /proc/uptime) - began))"
    number=$((number + 1))
done
# For a person who looks for the cause of a failure.
journalctl --no-pager
echo "@@ done"
sync
poweroff -f
