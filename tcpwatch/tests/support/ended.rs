//! A process that is only there.

use std::process::{Child, Command};

use anyhow::Result;
use scenes::Namespace;

/// A child that ends with the test, however that ends.
pub(crate) struct Ended(pub(crate) Child);

impl Ended {
    /// One that sleeps inside a namespace: through it an agent without CAP_SYS_ADMIN reads the counters
    /// there.
    pub(crate) fn asleep_in(ns: &Namespace) -> Result<Self> {
        Ok(Self(ns.spawn_in(Command::new("sleep").arg("600"))?))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
