//! The remedies for a pileup, the safest first.

use super::{
    relay::Relay,
    services::Services,
    stacks::Stacks,
    words::{Group, Reading},
};
use crate::{
    engine::{advice::text, finding::Subject},
    facts::{Role, Unread, is_short_id},
};

pub(super) fn of(
    group: &Group<'_>,
    subject: &Subject,
    stacks: &Stacks,
    services: &Services<'_>,
) -> Vec<String> {
    let mut remedies = vec![format!("Look at them: {}", look(group, subject, services))];
    if let (Some((opener, _)), None) = (stacks.opener(), &group.relay) {
        remedies.push(format!(
            "Begin with {}: follow what it opens to each place where it should be closed.",
            text::shown(&opener)
        ));
    }
    remedies.push(cure(group, subject));
    if let (true, Some(pid), Some(descriptors)) =
        (group.worst.is_near_limit, subject.pid, group.worst.descriptors)
    {
        remedies.push(format!(
            "To win time: {}. Many programs read it only at the start, and the leak goes on.",
            descriptors.more(pid)
        ));
    }
    remedies.extend(kill(group, subject, services));
    remedies.push(free(group, subject));
    remedies
}

/// The command that ends the connections without a restart. Sockets that wait for
/// accept() come out of it as connections that are over, which is no gain.
fn kill(group: &Group<'_>, subject: &Subject, services: &Services<'_>) -> Option<String> {
    let (role, port) = services.main().filter(|_| group.relay.is_none())?;
    if matches!(group.reading(), Reading::Unaccepted) {
        return None;
    }
    // The command would end those too.
    if group.half_closed > 0 {
        return None;
    }
    let side = if role == Role::Client { "dport" } else { "sport" };
    let command = format!("ss -tK state close-wait '( {side} = :{port} )'");
    Some(format!(
        "Without a restart: {}, where the kernel has CONFIG_INET_DIAG_DESTROY. It ends each \
         connection in CLOSE_WAIT there, those of other processes too. Ports and memory are free \
         then; the descriptors stay open, and calls on them fail with ECONNABORTED.",
        text::in_its_namespace(subject, &command)
    ))
}

/// The command that lists the sockets.
fn look(group: &Group<'_>, subject: &Subject, services: &Services<'_>) -> String {
    let one_pid = subject.pid.filter(|_| group.holders.len() == 1);
    let list = match (services.main(), one_pid) {
        (Some((Role::Client, port)), _) => {
            format!("ss -tnpo state close-wait '( dport = :{port} )'")
        }
        (Some((Role::Server, port)), _) => {
            format!("ss -tnpo state close-wait '( sport = :{port} )'")
        }
        (None, Some(pid)) => format!("ss -tnpo state close-wait | grep -F pid={pid},"),
        (None, None) => "ss -tnpo state close-wait".to_owned(),
    };
    text::in_its_namespace(subject, &list)
}

/// The lasting cure.
fn cure(group: &Group<'_>, subject: &Subject) -> String {
    if let Some(Relay { peer, process, .. }) = &group.relay {
        return match process {
            Some(process) => format!(
                "Look at {}: it has these connections in CLOSE_WAIT and does not close them. The \
                 relay is only the mirror of that, and a restart of it is no cure.",
                text::named(Some(process))
            ),
            None => format!(
                "Look at what is behind {peer}: there these connections are in CLOSE_WAIT. The \
                 relay is only the mirror of that, and a restart of it is no cure."
            ),
        };
    }
    let name = match (&subject.process, subject.pid) {
        (Some(name), Some(pid)) => text::named_as(name, pid),
        _ => "the process".to_owned(),
    };
    let side = group.oldest().role;
    match (group.reading(), side) {
        (Reading::Unaccepted, _) => text::dump_threads(
            subject,
            &name,
            "what keeps the accepting one from accept(): a full pool of workers, a lock, or no file \
             descriptor left (EMFILE)",
        ),
        (Reading::Inherited, _) => format!(
            "In the program that started {name}: open sockets with SOCK_CLOEXEC, or set FD_CLOEXEC \
             (close-on-exec) before it starts another program; in Python close_fds=True."
        ),
        (Reading::Left(Unread::Data), _) | (Reading::Left(Unread::End), Role::Server) => {
            text::dump_threads(
                subject,
                &name,
                "what keeps them from reading these sockets: a lock, a full pool, a call without a \
             time-out",
            )
        }
        (Reading::Left(_), Role::Client) => "In the code: close the connection on every path that \
             ends its use, and let the pool drop idle connections sooner than the server does."
            .to_owned(),
        (Reading::Left(Unread::Nothing), Role::Server) => "In the code: close the accepted socket \
             when read() returns 0 or an error, also on early returns and timeouts."
            .to_owned(),
    }
}

/// The way to free the descriptors now.
fn free(group: &Group<'_>, subject: &Subject) -> String {
    if let Some(by_worker) = group.queued().and_then(|queued| queued.remedy()) {
        return by_worker;
    }
    let processes = group.holders.len();
    let restart = match (&group.relay, group.service(), subject.container.as_deref()) {
        (Some(Relay { process: Some(process), .. }), _, _) => format!(
            "{} Once {} has closed its ends, the relay ends its halves itself.",
            sentence(&text::restart_of(process)),
            text::named(Some(process))
        ),
        (Some(Relay { peer, .. }), _, _) => {
            format!("restart what is behind {peer}; the relay then ends its halves itself.")
        }
        (None, Some(_), Some(id)) if is_short_id(id) => format!(
            "restart container or pod {id}: {} in it hold them.",
            text::count(processes as u64, "process")
        ),
        _ => text::restart(subject),
    };
    format!("To free the sockets now: {restart}")
}

/// Words that end in a full stop, as a command does not.
fn sentence(restart: &str) -> String {
    if restart.ends_with('.') { restart.to_owned() } else { format!("{restart}.") }
}
