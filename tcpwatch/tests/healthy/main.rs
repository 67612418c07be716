//! Programs in good health, side by side under one agent: whatever they do to TCP, none raises a
//! finding above info, and no rule of deploy/prometheus fires for them.
//!
//! Each scene has a network namespace of its own and plays for three minutes after the cold start
//! of the detectors. Thresholds, ages, windows and the interval of the inventories are the defaults.
//! One key differs, see [`QUICK`]: it shortens the cold start from 10 minutes to 2. `CI_FULL=1`
//! leaves it as it is and takes 22 minutes instead of 6.
//!
//! `HEALTHY=https,restarts` plays these groups only; `-- --nocapture` shows the readings, which
//! docs/HEALTHY.md records.

mod aborts;
mod bursts;
mod databases;
mod half_closed;
mod https;
mod keep_alive;
mod pools;
mod random_ports;
mod readings;
mod restarts;
mod scans;
mod small_host;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod web;

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use readings::Readings;
use scenes::{Namespace, SelfConnection};
use stage::{Clock, Scene, Stage, find, is_full};
use support::{
    Agent, DEADLINE,
    prometheus::{Prometheus, Server},
};

/// The lowest `factor` that reset-storm can have. It raises more than the default, and its cold
/// start of `factor` windows is over after 2 minutes.
const QUICK: &str = "[detect.reset_storm]\nfactor = 2\n";

/// `factor` windows of 60 s, and an inventory.
const QUICK_COLD_START: Duration = Duration::from_secs(130);
/// The same with the default factor of 10.
const FULL_COLD_START: Duration = Duration::from_secs(610);

/// Three minutes and an inventory.
const WATCHED: Duration = Duration::from_secs(190);
/// Longer than the default `window` of close-wait-pileup together with the cold start, so that a
/// pool which fills slowly is judged in each of its quarters.
const FULL_WATCHED: Duration = Duration::from_secs(660);

/// Between two looks at the agent; its answer holds for less.
const LOOK: Duration = Duration::from_secs(1);

/// Findings above info that this version still raises, by group and kind. One that is not raised
/// any more makes the test fail: take it out. It must be empty in a release.
const NOT_YET: &[(&str, &str)] = &[];

/// Every scene, by group.
const GROUPS: &[&[Scene]] = &[
    https::SCENES,
    pools::SCENES,
    restarts::SCENES,
    random_ports::SCENES,
    aborts::SCENES,
    half_closed::SCENES,
    small_host::SCENES,
    scans::SCENES,
    bursts::SCENES,
    web::SCENES,
    keep_alive::SCENES,
    databases::SCENES,
];

#[test]
fn healthy_programs_raise_nothing_above_info() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let scenes = scenes_to_play()?;
    let lacking: BTreeSet<&str> = scenes
        .iter()
        .flat_map(|scene| scene.needs.iter().copied())
        .chain(["prometheus"])
        .filter(|program| find(program).is_none())
        .collect();
    if !lacking.is_empty() {
        let list: Vec<_> = lacking.into_iter().collect();
        return support::skip(&format!("needs {}", list.join(", ")));
    }

    let (config, cold_start, watched) = if is_full() {
        ("", FULL_COLD_START, FULL_WATCHED)
    } else {
        (QUICK, QUICK_COLD_START, WATCHED)
    };
    let mut agent = Agent::start(config)?;
    let prometheus = Server::start(agent.address)?;
    let clock = Arc::new(Clock::new(cold_start, watched));
    let stages =
        scenes.iter().map(|scene| Stage::new(scene, &clock)).collect::<Result<Vec<_>>>()?;

    let readings = thread::scope(|scope| -> Result<Vec<Readings>> {
        let playing: Vec<_> = scenes
            .iter()
            .zip(&stages)
            .map(|(scene, stage)| {
                scope.spawn(move || {
                    let play = || {
                        (scene.play)(stage)?;
                        ensure!(stage.clock.has_ended(), "it has ended before the verdict");
                        Ok(())
                    };
                    if let Err(error) = play() {
                        stage.clock.fail(error.context(format!("scene {}", scene.name)));
                    }
                })
            })
            .collect();
        let watched = watch(&mut agent, &prometheus.api, &clock, &scenes, &stages);
        let readings = watched.unwrap_or_else(|error| {
            clock.fail(error);
            Vec::new()
        });
        clock.stop();
        println!("{}", readings::table(&readings));
        for scene in playing {
            scene.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        clock.take_failure().map_or(Ok(readings), Err)
    })?;

    let mut loud: Vec<String> = readings.iter().flat_map(Readings::loud).collect();
    loud.extend(alerts(&prometheus.api, &readings)?);
    let raised: BTreeSet<(&str, &str)> = readings.iter().flat_map(Readings::raised).collect();
    let played: BTreeSet<&str> = scenes.iter().map(|scene| scene.group).collect();
    let silent =
        NOT_YET.iter().filter(|entry| played.contains(entry.0) && !raised.contains(*entry));
    loud.extend(silent.map(|entry| format!("{entry:?} is silent now: take it out of NOT_YET")));
    ensure!(loud.is_empty(), "healthy programs:\n{}", loud.join("\n"));
    Ok(())
}

/// Those of the groups that `HEALTHY` names, or all.
fn scenes_to_play() -> Result<Vec<&'static Scene>> {
    let all = || GROUPS.iter().copied().flatten();
    let Ok(names) = env::var("HEALTHY") else { return Ok(all().collect()) };
    let chosen: Vec<_> = names.split(',').collect();
    for name in &chosen {
        ensure!(all().any(|scene| scene.group == *name), "HEALTHY: no group {name:?}");
    }
    Ok(all().filter(|scene| chosen.contains(&scene.group)).collect())
}

/// Until the end of the run, what the agent says of each scene. A fault that is made on purpose, in
/// a namespace of its own, must be seen by the same eyes, and its alert must fire: else a silence
/// would prove nothing.
fn watch(
    agent: &mut Agent,
    prometheus: &Prometheus,
    clock: &Clock,
    scenes: &[&Scene],
    stages: &[Stage],
) -> Result<Vec<Readings>> {
    const ALERT: &str = "TcpwatchSelfConnection";
    let faulty = Namespace::new("fault")?;
    let mut fault = Some(SelfConnection::make(&faulty, IpAddr::from(Ipv4Addr::LOCALHOST))?);
    let (mut raised, mut fired) = (false, false);
    let mut readings: Vec<Readings> =
        scenes.iter().zip(stages).map(|(scene, stage)| Readings::new(scene, &stage.ns)).collect();
    // The last look is at the end or after it.
    let mut answered = Instant::now();
    while answered < clock.end {
        thread::sleep(LOOK);
        ensure!(!clock.has_ended(), "a scene has ended before the verdict");
        agent.must_run()?;
        let began = Instant::now();
        match agent.all_findings().and_then(|findings| Ok((findings, agent.metrics()?))) {
            Ok((findings, metrics)) => {
                answered = began;
                for reading in &mut readings {
                    reading.observe(&findings, &metrics)?;
                }
                raised |= findings.iter().any(|it| it["subject"]["netns"] == faulty.name());
            }
            // On a busy machine an answer may be late; other tests say how soon it must come.
            Err(error) => ensure!(answered.elapsed() < DEADLINE, "{error:#}"),
        }
        // A query that fails is repeated with the next look.
        let alerts = prometheus.firing(ALERT).unwrap_or_default();
        fired |= alerts.iter().any(|alert| alert["labels"]["netns"] == faulty.name());
        if raised && fired {
            fault.take();
        }
    }
    ensure!(raised, "a fault made on purpose was not raised");
    ensure!(fired, "the alert of a fault made on purpose did not fire");
    for reading in &readings {
        reading.must_have_been_watched()?;
    }
    Ok(readings)
}

/// Alerts that fired at any time, of the scenes and of the agent's own health. Severity info pages
/// no person.
fn alerts(prometheus: &Prometheus, readings: &[Readings]) -> Result<Vec<String>> {
    let ever = "max_over_time(ALERTS{alertstate=\"firing\", severity!=\"info\"}[1h])";
    let mut found = Vec::new();
    for alert in prometheus.query(ever)? {
        let labels = &alert["metric"];
        let is_ours = match labels["netns"].as_str() {
            // Other namespaces of this machine belong to others.
            Some(netns) => {
                let scene = readings.iter().find(|it| it.is_of(netns));
                scene.is_some_and(|scene| scene.not_yet().next().is_none())
            }
            // The agent's own health. The sum "other" has a process and no namespace; the
            // findings have said whose it is.
            None => labels["process"].is_null(),
        };
        if is_ours {
            found.push(format!("an alert fired: {labels}"));
        }
    }
    Ok(found)
}
