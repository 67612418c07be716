//! Listeners inside ip_local_port_range: on ports that the kernel or the program picked at random,
//! on fixed ones, and one whose clients are there before it.

use anyhow::Result;

use crate::stage::{Scene, Stage};

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "random-ports",
        name: "ports-of-kernel",
        needs: &["python3"],
        // A Jupyter kernel has five, and Spark, JMX and containerd some each.
        play: |stage| listeners(stage, &["kernel", "20"]),
    },
    Scene {
        group: "random-ports",
        name: "ports-of-program",
        needs: &["python3"],
        play: |stage| listeners(stage, &["program", "20"]),
    },
    Scene {
        group: "random-ports",
        name: "fixed-ports",
        needs: &["python3"],
        // gRPC's and that of MySQL's X protocol.
        play: |stage| listeners(stage, &["50051", "33060"]),
    },
    Scene {
        group: "random-ports",
        name: "late-service",
        needs: &["python3"],
        play: |stage| service_that_starts_late(stage, "50051", "1"),
    },
    // connect() picks even ports first, so only there would a client of its own meet itself. Fewer
    // attempts, as each has one chance in 14,116 for it.
    Scene {
        group: "random-ports",
        name: "late-service-even",
        needs: &["python3"],
        play: |stage| service_that_starts_late(stage, "50052", "2"),
    },
];

fn listeners(stage: &Stage, arguments: &[&str]) -> Result<()> {
    let mut program = stage.python("listeners.py", arguments)?;
    stage.keep(&mut [&mut program])?;
    stage.must_have_accepted(60)
}

/// A client tries again and again, and the service starts 30 s after it.
fn service_that_starts_late(stage: &Stage, port: &str, pause: &str) -> Result<()> {
    if !stage.wait_until_warm() {
        return Ok(());
    }
    let mut program = stage.python("late_service.py", &[port, "30", pause])?;
    stage.keep(&mut [&mut program])?;
    stage.must_have_accepted(1)?;
    stage.must_have_reset(10)
}
