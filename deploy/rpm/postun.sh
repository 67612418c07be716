# After an upgrade the new binary runs, where the old one ran.
if [ "$1" -ge 1 ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    systemctl try-restart tcpwatch.service >/dev/null 2>&1 || :
fi
