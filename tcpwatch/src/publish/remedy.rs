//! The words and the commands of a remedy.

/// A part of a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemedyPart<'a> {
    /// Words for a person.
    Words(&'a str),
    /// A command to paste.
    Command(&'a str),
}

/// The parts of a remedy in their order, empty ones left out: its commands stand between backticks.
pub fn remedy_parts(remedy: &str) -> impl Iterator<Item = RemedyPart<'_>> {
    let parts = remedy.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(place, part)| match place % 2 {
        0 => RemedyPart::Words(part),
        _ => RemedyPart::Command(part),
    })
}

#[cfg(test)]
mod tests {
    use super::{RemedyPart::*, *};

    #[test]
    fn commands_and_words_are_parts() {
        let parts = |remedy| remedy_parts(remedy).collect::<Vec<_>>();
        assert_eq!(parts("Wait."), [Words("Wait.")]);
        assert_eq!(
            parts("`ss -t` lists them; then `kill 7`"),
            [Command("ss -t"), Words(" lists them; then "), Command("kill 7")]
        );
    }
}
