//! The report of a guest, from its second serial line: for each step a line `@@ begin NUMBER`, the
//! output, and a line `@@ end NUMBER STATUS SECONDS`, by guest.sh; at the end `@@ done`.

use super::step::Output;

/// A step that came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) output: Output,
    pub(super) seconds: u64,
}

/// The steps that are done by now, in their order.
pub(super) fn parse(text: &str) -> Vec<Done> {
    let mut steps = Vec::new();
    let mut remainder = text;
    while let Some(step) = next(steps.len(), &mut remainder) {
        steps.push(step);
    }
    steps
}

/// Whether the guest has taken every step.
pub(super) fn is_whole(text: &str) -> bool {
    text.lines().any(|line| line == "@@ done")
}

fn next(number: usize, remainder: &mut &str) -> Option<Done> {
    let (_, begun) = remainder.split_once(&format!("@@ begin {number}\n"))?;
    let (text, ended) = begun.split_once(&format!("\n@@ end {number} "))?;
    // Without the end of its line the numbers may be half of what they will be.
    let (numbers, ended) = ended.split_once('\n')?;
    let (status, seconds) = numbers.split_once(' ')?;
    let output = Output { text: text.to_owned(), status: status.parse().ok()? };
    *remainder = ended;
    Some(Done { output, seconds: seconds.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::{is_whole, parse};

    #[test]
    fn steps_that_are_done_are_read_while_the_next_is_under_way() {
        let text = "noise\n@@ begin 0\nNAME=a\n\n@@ end 0 0 12\n@@ begin 1\n\n@@ end 1 137 180\n\
                    @@ begin 2\nhalf";
        let steps = parse(text);
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].output.value("NAME").ok(), Some("a"));
        assert_eq!((steps[1].output.status, steps[1].seconds), (137, 180));
        assert!(!is_whole(text));
        assert_eq!(parse("@@ begin 0\n\n@@ end 0 0 1").len(), 0);
        assert!(is_whole(&format!("{text}\n\n@@ end 2 0 1\n@@ done\n")));
    }
}
