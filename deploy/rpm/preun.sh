# Only the last removal, not an upgrade.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now tcpwatch.service >/dev/null 2>&1 || :
fi
