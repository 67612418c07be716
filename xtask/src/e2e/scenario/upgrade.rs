//! The next .deb, whose default configuration and kernel side differ, over this one, whose
//! configuration the administrator has changed; the way back; and this one over itself.

use anyhow::{Result, ensure};

use super::super::step::{Output, Step};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "an upgrade keeps the changed configuration, and the new process runs",
        script: "
            before=$(main_pid)
            apt-get install --quiet --quiet --yes -o Dpkg::Options::=--force-confold ./next.deb
            until_true restarted_from \"$before\"
            get /-/ready
            get /metrics | grep -E '^tcpwatch_(handover|blind)'
            cmp admin.toml $config
            ls $config.dpkg-dist
            echo \"expected=$(cat next.version)-1\"
            echo \"installed=$(dpkg-query -W -f '${Version}' tcpwatch)\"
            echo \"enabled=$(systemctl is-enabled tcpwatch)\"
        ",
        judge: |output| installed_as_expected(output, "handed_over"),
    },
    Step {
        name: "this version goes over the next one again",
        script: "
            before=$(main_pid)
            dpkg --force-confold --install this.deb
            until_true restarted_from \"$before\"
            get /-/ready
            get /metrics | grep -E '^tcpwatch_(handover|blind)'
            cmp admin.toml $config
            echo \"expected=$(cat this.version)-1\"
            echo \"installed=$(dpkg-query -W -f '${Version}' tcpwatch)\"
            echo \"enabled=$(systemctl is-enabled tcpwatch)\"
        ",
        judge: |output| installed_as_expected(output, "handed_over"),
    },
    Step {
        name: "the same version again goes on with the hooks as they are",
        script: "
            before=$(main_pid)
            dpkg --force-confold --install this.deb
            until_true restarted_from \"$before\"
            get /-/ready
            get /metrics | grep -E '^tcpwatch_(handover|blind)'
            cmp admin.toml $config
            echo \"expected=$(cat this.version)-1\"
            echo \"installed=$(dpkg-query -W -f '${Version}' tcpwatch)\"
            echo \"enabled=$(systemctl is-enabled tcpwatch)\"
        ",
        judge: |output| installed_as_expected(output, "adopted"),
    },
    Step {
        name: "a service that the administrator has disabled and stopped stays so in an upgrade",
        script: "
            systemctl disable --now tcpwatch
            dpkg --force-confold --install next.deb
            systemctl show -p ActiveState -p UnitFileState tcpwatch
            systemctl enable --now tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("ActiveState", "inactive")?;
            output.is("UnitFileState", "disabled")
        },
    },
];

fn installed_as_expected(output: &Output, handover: &str) -> Result<()> {
    output.succeeds()?;
    output.contains(" 200 OK")?;
    output.contains(&format!("tcpwatch_handover_total{{outcome=\"{handover}\"}} 1"))?;
    output.contains("tcpwatch_blind_seconds_total 0")?;
    output.is("enabled", "enabled")?;
    let (expected, installed) = (output.value("expected")?, output.value("installed")?);
    ensure!(expected == installed, "{installed} is installed, not {expected}");
    Ok(())
}
