//! `tcpwatch run`: the daemon.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{Exit, Options, config_source};
use crate::{agent, config::Config, publish::Access};

pub(super) fn run(options: Options) -> Exit {
    if let Err(error) = agent::start_log() {
        return Exit::failed(&error);
    }
    let exit = run_to_the_end(options);
    agent::finish_log();
    exit
}

fn run_to_the_end(options: Options) -> Exit {
    let mut source = config_source(options.config);
    let (addresses, level, format) =
        (options.listen_addresses, options.log_level, options.log_format);
    source.overrides = Arc::new(move |config: &mut Config| {
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
    let access = options.web_config_file.as_deref().map(Access::load).transpose();
    let access = match access {
        Ok(access) => access.unwrap_or_default(),
        Err(error) => return Exit::config(&error),
    };
    agent::init_log(&config.log);
    access.log();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(&error),
    };
    // A panic of the loop is an end like any other: it has a reason, and exit code 1.
    let ended =
        catch_unwind(AssertUnwindSafe(|| runtime.block_on(agent::run(source, config, access))));
    match ended.unwrap_or_else(|panic| Err(agent::RunError::of_panic("the loop", &*panic))) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::run(&error),
    }
}
