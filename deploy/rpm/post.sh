# A first installation follows the presets of the system, as each service of EL and Fedora does.
# systemd's own file triggers read units and the journal catalog again.
if [ "$1" -eq 1 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload preset tcpwatch.service >/dev/null 2>&1 || :
fi
