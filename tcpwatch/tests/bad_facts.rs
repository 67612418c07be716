//! No recorded fact ends the agent: recordings with impossible numbers are judged, or refused.
//!
//! Each recording is judged again and again with the numbers of some keys replaced by extremes: one
//! key in each line, as a limit that lies far beyond, and several keys at random. The build of the
//! tests checks arithmetic, so an overflow that a release build would hide fails here too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Cursor,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tcpwatch::{
    config::Config,
    engine::Engine,
    incident::{Fact, Recording},
    publish::{
        AgentView, History, Metrics, Origin, Trends, View, WallClock, findings_json, kernel_limits,
        render_page,
    },
};

/// Rounds for each recording: together some seconds.
const ROUNDS: u64 = 40;

/// xorshift64*: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.next().is_multiple_of(number)
    }

    fn extreme(&mut self, before: u64, most: u64) -> u64 {
        let candidates = [0, 1, before.saturating_add(1), most / 2, most - 1, most];
        candidates[(self.next() % candidates.len() as u64) as usize].min(most)
    }
}

/// The change of a round to the numbers of one key.
#[derive(Clone, Copy)]
enum Fate {
    Kept,
    /// The same in each line, as a counter that stands or a limit that is far.
    Fixed(u64),
    Anew,
}

/// The largest number that each key can have.
type Ceilings = BTreeMap<String, u64>;

struct Round<'a> {
    random: Random,
    ceilings: &'a Ceilings,
    fates: BTreeMap<String, Fate>,
}

impl<'a> Round<'a> {
    /// Keeps all but one key.
    fn of_one(key: &str, number: u64, ceilings: &'a Ceilings) -> Self {
        let kept = ceilings.keys().map(|key| (key.clone(), Fate::Kept));
        let mut fates: BTreeMap<_, _> = kept.collect();
        fates.insert(key.to_owned(), Fate::Fixed(number));
        Self { random: Random(1), ceilings, fates }
    }

    fn at_random(seed: u64, ceilings: &'a Ceilings) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut fate = |most: u64| match random.next() % 8 {
            0 | 1 => Fate::Fixed(random.extreme(7, most)),
            2 => Fate::Anew,
            _ => Fate::Kept,
        };
        let fates = ceilings.iter().map(|(key, most)| (key.clone(), fate(*most))).collect();
        Self { random, ceilings, fates }
    }

    fn change(&mut self, key: &str, value: &mut Value) {
        for_each_number(key, value, &mut |key, value| {
            let before = value.as_u64().unwrap_or_default();
            match self.fates.get(key).copied().unwrap_or(Fate::Kept) {
                Fate::Fixed(extreme) => *value = extreme.into(),
                Fate::Anew if self.random.one_in(2) => {
                    let most = self.ceilings.get(key).copied().unwrap_or_default();
                    *value = self.random.extreme(before, most).into();
                }
                Fate::Anew | Fate::Kept => {}
            }
        });
    }
}

/// Numbers in a list have the key of the list.
fn for_each_number(key: &str, value: &mut Value, act: &mut dyn FnMut(&str, &mut Value)) {
    match value {
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(key, value)| for_each_number(key, value, act));
        }
        Value::Array(elements) => {
            elements.iter_mut().for_each(|element| for_each_number(key, element, act));
        }
        Value::Number(number) if number.is_u64() => act(key, value),
        _ => {}
    }
}

/// Of each key the largest number that its type takes.
fn ceilings(lines: &[&str]) -> Result<Ceilings> {
    let mut ceilings = Ceilings::new();
    for line in lines.iter().skip(1) {
        let mut fact: Value = serde_json::from_str(line)?;
        let mut keys = BTreeSet::new();
        for_each_number("", &mut fact.clone(), &mut |key, _| {
            keys.insert(key.to_owned());
        });
        for key in keys {
            let bits = [64, 63, 32, 16, 8].into_iter().find(|bits| {
                for_each_number("", &mut fact, &mut |at, value| {
                    if at == key {
                        *value = (u64::MAX >> (64 - bits)).into();
                    }
                });
                serde_json::from_value::<Fact>(fact.clone()).is_ok()
            });
            let most = bits.map_or(0, |bits| u64::MAX >> (64 - bits));
            let known = ceilings.entry(key).or_insert(most);
            *known = most.min(*known);
            fact = serde_json::from_str(line)?;
        }
    }
    // A key that takes no other number is a tag.
    ceilings.retain(|_, most| *most > 0);
    Ok(ceilings)
}

/// The recording as this round has it.
fn changed(lines: &[&str], mut round: Round<'_>) -> Result<String> {
    let mut text = format!("{}\n", lines.first().context("an empty recording")?);
    for line in lines.iter().skip(1) {
        let mut fact: Value = serde_json::from_str(line)?;
        round.change("", &mut fact);
        text.push_str(&format!("{fact}\n"));
    }
    Ok(text)
}

fn judge(text: &str, config: &Config) -> Result<(usize, usize)> {
    let recording = Recording::open(Cursor::new(text), Path::new("changed"))?;
    let wall = WallClock::of_recording(recording.header()).context("a header without time")?;
    let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
    let mut metrics = Metrics::new("0", "0")?;
    let mut trends = Trends::default();
    let (mut judged, mut refused) = (0, 0);
    for fact in recording {
        let Ok(fact) = fact else {
            refused += 1;
            continue;
        };
        judged += 1;
        fact.give_to(&mut engine);
        let _ = engine.focus();
        while engine.poll_change().is_some() {}
        let samples = engine.samples();
        metrics.observe_samples(&samples, wall);
        let origin = Origin::default();
        let Fact::Inventory { now, found } = &fact else { continue };
        trends.observe(*now, &samples, None, engine.findings());
        let limits = kernel_limits(found);
        ensure!(!findings_json(engine.findings(), &origin, wall).is_empty(), "no findings");
        let page = render_page(&View {
            origin,
            wall,
            findings: engine.findings(),
            history: &History::default(),
            samples: &samples,
            trends: &trends,
            limits: &limits,
            agent: AgentView {
                started: wall.now(),
                inventoried: Some(wall.now()),
                interval: Duration::MAX,
                ready: Ok(()),
                lost: &[],
            },
        });
        ensure!(page.len() < 16 << 20, "a page of {} bytes", page.len());
    }
    ensure!(!metrics.encode().is_empty(), "no metrics");
    Ok((judged, refused))
}

#[test]
fn recordings_with_extreme_numbers_are_judged_without_a_panic() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents");
    let config = Config::load(&folder.join("tcpwatch.toml"))?;
    let mut recordings = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            recordings.push((path.metadata()?.len(), path));
        }
    }
    // The longest first, so that no CPU has to wait for one at the end.
    recordings.sort();
    let recordings = Mutex::new(recordings);
    let next = || recordings.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<()> {
        while let Some((_, path)) = next() {
            judge_with_extreme_numbers(&path, &config)?;
        }
        Ok(())
    };
    let cpus = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cpus).map(|_| scope.spawn(work)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Result<()>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().try_for_each(join)
    })
}

fn judge_with_extreme_numbers(path: &Path, config: &Config) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let lines: Vec<_> = text.lines().collect();
    let ceilings = ceilings(&lines)?;
    ensure!(ceilings.len() > 5, "{}: {ceilings:?}", path.display());
    let mut sum = (0, 0);
    let mut try_with = |round: Round<'_>| -> Result<()> {
        let (judged, refused) = judge(&changed(&lines, round)?, config)?;
        sum = (sum.0 + judged, sum.1 + refused);
        Ok(())
    };
    for (key, most) in &ceilings {
        println!("{} with extreme {key}", path.display());
        try_with(Round::of_one(key, *most, &ceilings))?;
        try_with(Round::of_one(key, 0, &ceilings))?;
    }
    for seed in 1..=ROUNDS {
        println!("{} with seed {seed}", path.display());
        try_with(Round::at_random(seed, &ceilings))?;
    }
    // Where many were refused by their types, little was tried.
    ensure!(sum.0 > 9 * sum.1, "{}: {sum:?}", path.display());
    Ok(())
}

/// The last inventory once, and after five centuries again and again, with half of the largest
/// limit in use and little more each time: the limit is met after more seconds than a duration can
/// hold.
fn slow_growth(lines: &[&str]) -> Result<String> {
    const STEP_NS: u64 = 10_000_000_000;
    const GAP_NS: u64 = 17_000_000_000_000_000_000;
    const HALF: u64 = 1 << 63;
    let mut last = lines.iter().rev().map(|line| serde_json::from_str::<Value>(line));
    let last = last.find_map(|line| line.ok().filter(|fact| fact.get("inventory").is_some()));
    let mut fact = last.context("a recording without an inventory")?;
    let mut text = format!("{}\n", lines.first().context("an empty recording")?);
    for step in 0..200 {
        for_each_number("", &mut fact, &mut |key, value| match key {
            "now" => *value = (STEP_NS * step + GAP_NS * step.min(1)).into(),
            "limit" => *value = u64::MAX.into(),
            // The least that makes a difference to a floating-point number of this size.
            "used" => *value = (HALF + step * 4_096).into(),
            "time_wait_overflows" => *value = step.into(),
            _ => {}
        });
        text.push_str(&format!("{fact}\n"));
    }
    Ok(text)
}

#[test]
fn limit_that_is_met_after_ages_is_judged_without_a_panic() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents");
    let config = Config::load(&folder.join("tcpwatch.toml"))?;
    let text = fs::read_to_string(folder.join("time-wait-exhaustion.jsonl"))?;
    let (judged, _) = judge(&slow_growth(&text.lines().collect::<Vec<_>>())?, &config)?;
    assert_eq!(judged, 200);
    Ok(())
}
