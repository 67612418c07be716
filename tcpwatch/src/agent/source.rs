//! Where the configuration comes from: at the start, and again at each reload.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::config::{Config, ConfigError};

/// Read where no file is named and it exists.
const DEFAULT_CONFIG: &str = "/etc/tcpwatch/tcpwatch.toml";

/// Where the configuration comes from, so that a reload can read it again.
pub struct ConfigSource {
    /// The file that was named. Without one, the packaged file if it is there, else the defaults.
    pub path: Option<PathBuf>,
    /// Settings of the command line, which come above the file.
    pub overrides: Arc<dyn Fn(&mut Config) + Send + Sync>,
}

impl ConfigSource {
    /// The file that is read; `None` where there is none.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let packaged = || PathBuf::from(DEFAULT_CONFIG);
        self.path.clone().or_else(|| Path::new(DEFAULT_CONFIG).exists().then(packaged))
    }

    /// Reads it. A file that does not answer is refused after some seconds.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let loaded = match &self.path {
            Some(path) => Config::load(path),
            None => match Config::load(Path::new(DEFAULT_CONFIG)) {
                Err(ConfigError::Missing { .. }) => Ok(Config::default()),
                loaded => loaded,
            },
        };
        let mut config = loaded?;
        (self.overrides)(&mut config);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_above_the_file_each_time_it_is_read() {
        let overrides = |config: &mut Config| config.limits.owners = 7;
        let packaged = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tcpwatch.toml");
        let source = ConfigSource { path: Some(packaged.into()), overrides: Arc::new(overrides) };
        for _ in 0..2 {
            let config = source.load().expect("the packaged file is accepted");
            assert_eq!(config.limits.owners, 7);
        }
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let path = Some(PathBuf::from("/nonexistent/tcpwatch.toml"));
        let source = ConfigSource { path, overrides: Arc::new(|_| {}) };
        assert!(matches!(source.load(), Err(ConfigError::Missing { .. })));
    }
}
