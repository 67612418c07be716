# After an upgrade the new binary runs, where the old one ran.
if [ "$1" -ge 1 ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    systemctl try-restart tcpwatch.service >/dev/null 2>&1 || :
fi
# The package lists files only; a folder stays while a changed configuration is in it.
if [ "$1" -eq 0 ]; then
    rmdir /etc/tcpwatch /usr/share/tcpwatch/prometheus /usr/share/tcpwatch/grafana \
        /usr/share/tcpwatch /usr/share/licenses/tcpwatch /usr/share/doc/tcpwatch/examples \
        /usr/share/doc/tcpwatch/runbooks /usr/share/doc/tcpwatch >/dev/null 2>&1 || :
fi
