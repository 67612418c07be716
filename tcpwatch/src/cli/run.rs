//! `tcpwatch run`: the daemon.

use super::{Exit, Options, config_source};
use crate::{agent, config::Config};

pub(super) fn run(options: Options) -> Exit {
    let mut source = config_source(options.config);
    let (addresses, level, format) =
        (options.listen_addresses, options.log_level, options.log_format);
    source.overrides = Box::new(move |config: &mut Config| {
        if !addresses.is_empty() {
            config.web.listen_addresses.clone_from(&addresses);
        }
        config.log.level = level.unwrap_or(config.log.level);
        config.log.format = format.unwrap_or(config.log.format);
    });
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    agent::init_log(&config.log);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(&error),
    };
    match runtime.block_on(agent::run(source, config)) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::start(&error),
    }
}
