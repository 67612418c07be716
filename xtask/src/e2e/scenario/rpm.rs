//! The .rpm by rpm itself, beside a real systemd, so that its scripts do their work: installation,
//! upgrade with a changed configuration, removal. Its dependencies are not in the database of rpm, and
//! Debian's rpm installs nothing without `--force-debian`.

use anyhow::ensure;

use super::{
    super::step::{Output, Step},
    removal::{gone, nothing_is_left},
};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "rpm installs the .rpm and starts nothing; systemctl enable --now does",
        script: "
            # Folders that other packages of an rpm system own.
            mkdir -p /usr/share/licenses /usr/share/zsh/site-functions
            mkdir -p /usr/share/fish/vendor_completions.d
            inventory_of_disk >before
            rpm --force-debian --install --nodeps this.rpm
            echo \"installed=$(systemctl is-active tcpwatch)\"
            systemctl daemon-reload
            systemctl enable --now tcpwatch
            echo \"enabled=$(systemctl is-active tcpwatch)\"
            get /-/ready
            rpm --verify --nodeps tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("installed", "inactive")?;
            output.is("enabled", "active")?;
            output.contains(" 200 OK")
        },
    },
    Step {
        name: "an upgrade by rpm keeps the changed configuration, and the new process runs",
        script: "
            cp admin.toml $config
            before=$(main_pid)
            rpm --force-debian --upgrade --nodeps next.rpm
            until_true restarted_from \"$before\"
            get /-/ready
            cmp admin.toml $config
            ls $config.rpmnew
            rpm --query tcpwatch
            echo \"next=$(cat next.version)\"
        ",
        judge: |output| {
            output.succeeds()?;
            output.contains(" 200 OK")?;
            output.contains(&format!("tcpwatch-{}-1.", output.value("next")?))
        },
    },
    Step {
        name: "erasing it stops the service and leaves the changed configuration only",
        script: "
            rpm --force-debian --erase --nodeps tcpwatch
            systemctl daemon-reload
            echo \"programs=$(programs)\"
            echo \"processes=$(pgrep -c -x tcpwatch || true)\"
            ls /run/tcpwatch /usr/bin/tcpwatch || true
            ls /etc/tcpwatch
            rm -r /etc/tcpwatch
            inventory_of_disk >after
            diff before after || true
        ",
        judge: |output: &Output| {
            output.succeeds()?;
            gone(output)?;
            output.contains("tcpwatch.toml.rpmsave")?;
            let links = output.text.lines().filter(|line| line.contains("multi-user.target.wants"));
            ensure!(links.count() == 0, "the unit is still enabled");
            nothing_is_left(output)
        },
    },
];
