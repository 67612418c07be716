//! Bars and graphs of block elements (U+2581 to U+258F), which are text and need no colour.

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Where a bar is empty.
const EMPTY: char = '·';

/// A share of a limit in `width` columns, by eighths. Something is never shown as nothing.
pub(super) fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    let part = (eighths % 8).checked_sub(1).map(|part| PARTS[part]);
    let mut bar: String = std::iter::repeat_n('█', eighths / 8).chain(part).collect();
    let empty = width.saturating_sub(bar.chars().count());
    bar.extend(std::iter::repeat_n(EMPTY, empty));
    bar
}

/// The last rates in `width` columns, by the largest of them. A blank is an unknown rate.
pub(super) fn line(rates: &[Option<f64>], width: usize) -> String {
    let [line] = &lines(rates, width, 1)[..] else { return String::new() };
    line.clone()
}

/// Likewise in several lines, from the top.
pub(super) fn lines(rates: &[Option<f64>], width: usize, height: usize) -> Vec<String> {
    let last = &rates[rates.len().saturating_sub(width)..];
    let most = peak(last);
    let steps = (height * LEVELS.len()) as f64;
    let level = |rate: Option<f64>| {
        let rate = rate?;
        let level = if most > 0.0 { (rate / most * steps).ceil() as usize } else { 0 };
        // Known and 0 is a line at the bottom.
        Some(level.max(1))
    };
    let levels: Vec<Option<usize>> = last.iter().map(|rate| level(*rate)).collect();
    let before = " ".repeat(width - last.len());
    let line = |row: usize| {
        let below = (height - 1 - row) * LEVELS.len();
        let character = |level: &Option<usize>| match level.and_then(|it| it.checked_sub(below)) {
            None | Some(0) => ' ',
            Some(level) => LEVELS[level.min(LEVELS.len()) - 1],
        };
        let line: String = levels.iter().map(character).collect();
        format!("{before}{line}")
    };
    (0..height).map(line).collect()
}

/// The largest of the rates that `lines` shows in so many columns.
pub(super) fn peak(rates: &[Option<f64>]) -> f64 {
    rates.iter().copied().flatten().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_eighths_and_never_hides_a_little() {
        assert_eq!(bar(0.0, 4), "····");
        assert_eq!(bar(0.000_1, 4), "▏···");
        assert_eq!(bar(0.5, 4), "██··");
        assert_eq!(bar(0.65, 4), "██▋·");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(1.5, 4), "████");
    }

    #[test]
    fn a_graph_ends_now_and_leaves_the_unknown_blank() {
        let rates = [None, Some(0.0), Some(4.0), Some(8.0)];
        assert_eq!(line(&rates, 6), "   ▁▄█");
        assert_eq!(line(&rates, 2), "▄█");
        assert_eq!(line(&[Some(0.0)], 2), " ▁");
        assert_eq!(line(&[], 2), "  ");
        assert_eq!(lines(&rates, 4, 2), ["   █", " ▁██"]);
    }
}
