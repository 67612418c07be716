//! The verdict about a pileup, put together of its parts.

use super::{evidence, remedies, services::Services, stacks::Stacks, words::Group};
use crate::engine::{
    finding::{FindingKind, Subject, Verdict},
    groups::held::name_holder,
};

pub(super) fn of(group: &Group<'_>, id: String) -> Verdict {
    let stacks = Stacks::of(group.sockets);
    let services = Services::of(group.sockets);
    let mut subject = Subject { netns: group.namespace.name.clone(), ..Subject::default() };
    services.name(&mut subject);
    name_holder(&mut subject, group.holders);
    subject.stack = stacks.first();
    Verdict {
        id,
        kind: FindingKind::CloseWaitPileup,
        severity: group.severity,
        title: group.title(&subject, &services),
        explanation: group.explanation(&stacks, &services),
        evidence: evidence::of(group, &stacks, &services),
        remedies: remedies::of(group, &subject, &stacks, &services),
        subject,
    }
}
