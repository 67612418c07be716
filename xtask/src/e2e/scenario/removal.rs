//! The .deb removed, installed again, and purged: nothing is left on disk, in /run or in the kernel.

use anyhow::{Result, ensure};

use super::super::step::{Output, Step};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "removal stops the service, detaches every program, and keeps the configuration",
        script: "
            apt-get remove --quiet --quiet --yes tcpwatch
            echo \"programs=$(programs)\"
            echo \"processes=$(pgrep -c -x tcpwatch || true)\"
            ls /run/tcpwatch /usr/bin/tcpwatch || true
            getent passwd tcpwatch || true
            cmp admin.toml $config
        ",
        judge: |output| {
            output.succeeds()?;
            gone(output)
        },
    },
    Step {
        name: "an installation after that starts the service again, with the old configuration",
        script: "
            apt-get install --quiet --quiet --yes -o Dpkg::Options::=--force-confold ./this.deb
            systemctl show -p ActiveState -p UnitFileState tcpwatch
            cmp admin.toml $config
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("ActiveState", "active")?;
            output.is("UnitFileState", "enabled")
        },
    },
    Step {
        name: "purge leaves no file, no account, no socket and no program",
        script: "
            apt-get purge --quiet --quiet --yes tcpwatch
            echo \"programs=$(programs)\"
            echo \"processes=$(pgrep -c -x tcpwatch || true)\"
            ls /run/tcpwatch /usr/bin/tcpwatch || true
            inventory_of_disk >after
            diff before after || true
        ",
        judge: |output| {
            output.succeeds()?;
            gone(output)?;
            nothing_is_left(output)
        },
    },
];

pub(super) fn gone(output: &Output) -> Result<()> {
    output.is("programs", "0")?;
    output.is("processes", "0")?;
    for path in ["/run/tcpwatch", "/usr/bin/tcpwatch"] {
        let absent = format!("'{path}': No such file or directory");
        output.contains(&absent)?;
    }
    output.lacks("tcpwatch:x:")
}

/// Beyond files that are the system's own, and would be there with any package.
pub(super) fn nothing_is_left(output: &Output) -> Result<()> {
    let own = ["/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/.rpmdb"];
    let is_own = |line: &str| own.iter().any(|folder| line.contains(folder));
    let lines = output.text.lines().filter(|line| line.starts_with("> "));
    let left: Vec<&str> = lines.filter(|line| !is_own(line)).collect();
    ensure!(left.is_empty(), "left: {}", left.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Output, nothing_is_left};

    #[test]
    fn a_file_or_an_account_that_stays_is_a_failure() {
        let judge = |text: &str| nothing_is_left(&Output { text: text.to_owned(), status: 0 });
        assert!(judge("12c12\n> f /var/lib/dpkg/status-old\n< f /tmp/x\n").is_ok());
        assert!(judge("> d /etc/tcpwatch\n").is_err());
        assert!(judge("> tcpwatch\n").is_err());
    }
}
