//! Thresholds that do not flap, seen through the number of CLOSE_WAIT sockets.

use super::*;

#[test]
fn a_severity_is_kept_down_to_nine_tenths_of_its_threshold() {
    use Severity::{Critical, Warning};
    let mut watch = Watch::counting();
    let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
    let steps = [
        (19, None),
        (20, Some(Warning)),
        (19, Some(Warning)),
        (18, Some(Warning)),
        (17, None),
        // Released: nine tenths raise nothing anew.
        (19, None),
        (20, Some(Warning)),
        (199, Some(Warning)),
        (200, Some(Critical)),
        (180, Some(Critical)),
        (179, Some(Warning)),
        (199, Some(Warning)),
        (200, Some(Critical)),
        // From critical straight below the threshold of the warning, but not below its release.
        (18, Some(Warning)),
        (200, Some(Critical)),
        (17, None),
        (180, Some(Warning)),
    ];
    for (step, (count, severity)) in steps.into_iter().enumerate() {
        watch.see_close_wait(times(count, &leak));
        assert_eq!(watch.severities().first().copied(), severity, "step {step}: {count} sockets");
        watch.pass(Duration::from_millis(1));
    }
}

#[test]
fn a_level_is_forgotten_after_one_inventory_without_the_condition() {
    let mut watch = Watch::counting();
    let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
    watch.see_close_wait(times(20, &leak));
    watch.see([]);
    assert_eq!(watch.see_close_wait(times(19, &leak)), []);
}

#[test]
fn each_condition_has_a_level_of_its_own() {
    let mut watch = Watch::counting();
    let since = START - seconds(3_600);
    let (a, b) = (close_wait(&process(1, "a"), since), close_wait(&process(2, "b"), since));
    watch.see_close_wait(times(20, &a));
    let mut both = times(19, &a);
    both.extend(times(19, &b));
    watch.see_close_wait(both);
    assert_eq!(watch.only().subject.process.as_deref(), Some("a"));
}

#[test]
fn lowered_thresholds_apply_from_the_next_inventory_on() {
    let mut watch = Watch::counting();
    let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
    assert_eq!(watch.see_close_wait(times(10, &leak)), []);
    watch.reconfigure(|detect| detect.close_wait_pileup.warning = 10);
    assert_eq!(watch.engine.findings(), []);
    assert_eq!(watch.see_close_wait(times(10, &leak)).len(), 1);
    watch.reconfigure(|detect| detect.close_wait_pileup.warning = 20);
    assert_eq!(watch.see_close_wait(times(10, &leak)), []);
}
