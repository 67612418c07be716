//! Access to the HTTP listeners: TLS, passwords and headers, as the web configuration file says.
//!
//! The file, the certificate, the key and the authority are read anew when one of them has changed.
//! A connection and a request cause the look, at most one a second, and a thread of its own takes
//! it. A file that is refused leaves the terms before it in force, and the log says so once. So does
//! a file that takes a protection away: an editor that has written half of a file must not open
//! the listeners. Without a web configuration file all of this is absent.
//!
//! The UNIX socket has its mode for protection, and takes neither TLS nor a password.

mod files;
mod guard;
mod handshake;
mod passwords;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    time::{Instant, timeout},
};

use self::{files::Stamps, handshake::Handshakes, passwords::Passwords, tls::Tls};
pub(super) use self::{guard::guard, handshake::Opened};
use crate::config::{ConfigError, Users, WebConfig};

/// Time between two looks at the files. Each is a few calls of stat(), and no operator replaces a
/// certificate more often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection waits for a look. A local disk takes a millisecond; on a filesystem that
/// hangs, the terms in force serve.
const LOOK_PATIENCE: Duration = Duration::from_millis(250);

/// Access to the listeners. Clones are one and the same; the default lets each client read.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<Shared>>);

struct Shared {
    path: PathBuf,
    in_force: Mutex<Arc<Terms>>,
    /// The last look; locked while one is under way.
    look: Arc<tokio::sync::Mutex<Look>>,
    passwords: Passwords,
    /// Started with the first handshake.
    handshakes: OnceLock<Handshakes>,
}

/// The last look at the files.
struct Look {
    at: Instant,
    stamps: Stamps,
}

/// The content of the files.
struct Terms {
    tls: Option<Tls>,
    headers: Vec<(HeaderName, HeaderValue)>,
    users: Users,
}

/// One reading of the files, with the stamps from before it.
struct Reading {
    stamps: Stamps,
    terms: Result<Terms, ConfigError>,
}

/// Why terms are not replaced.
#[derive(Debug, thiserror::Error)]
enum NotReplaced {
    #[error(transparent)]
    Refused(#[from] ConfigError),
    #[error("it takes {0} away: a restart applies it")]
    Weaker(&'static str),
}

impl Access {
    /// Reads the web configuration file and the files that it names.
    ///
    /// # Errors
    ///
    /// One of them is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let Reading { stamps, terms } = read(path);
        Ok(Self(Some(Arc::new(Shared {
            path: path.to_owned(),
            in_force: Mutex::new(Arc::new(terms?)),
            look: Arc::new(tokio::sync::Mutex::new(Look { at: Instant::now(), stamps })),
            passwords: Passwords::new(),
            handshakes: OnceLock::new(),
        }))))
    }

    /// Reads the files and forgets them: whether a reload is possible.
    ///
    /// # Errors
    ///
    /// One of them is refused.
    pub fn try_now(&self) -> Result<(), ConfigError> {
        match &self.0 {
            Some(shared) => read(&shared.path).terms.map(drop),
            None => Ok(()),
        }
    }

    /// The scheme of the listeners' URLs.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        let has_tls = self.0.as_ref().is_some_and(|shared| shared.in_force().tls.is_some());
        if has_tls { "https" } else { "http" }
    }

    /// Logs which protections are in force.
    pub fn log(&self) {
        if let Some(shared) = &self.0 {
            shared.in_force().log("web configuration in force");
        }
    }

    /// Looks at the files, also if the last look was just now, and waits for it a moment.
    pub async fn look(&self) {
        if let Some(shared) = &self.0 {
            shared.look(Duration::ZERO).await;
        }
    }

    /// The terms for this moment; `None` without a web configuration file.
    async fn terms(&self) -> Option<(&Shared, Arc<Terms>)> {
        let shared = self.0.as_ref()?;
        shared.look(LOOK_INTERVAL).await;
        Some((shared, shared.in_force()))
    }
}

impl Shared {
    fn in_force(&self) -> Arc<Terms> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A look, if the last one was so long ago.
    async fn look(self: &Arc<Self>, interval: Duration) {
        match Arc::clone(&self.look).try_lock_owned() {
            Ok(last) if last.at.elapsed() < interval => {}
            Ok(last) => {
                // A task of its own: the connection that has caused the look may be closed.
                let looks = tokio::spawn(Arc::clone(self).look_now(last));
                let _ = timeout(LOOK_PATIENCE, looks).await;
            }
            Err(_) => {
                let _ = timeout(LOOK_PATIENCE, self.look.lock()).await;
            }
        }
    }

    async fn look_now(self: Arc<Self>, mut last: OwnedMutexGuard<Look>) {
        let (answer, answered) = oneshot::channel();
        let (path, stamps) = (self.path.clone(), last.stamps.clone());
        // Not of the runtime's pool, whose end waits for a file that hangs.
        let looks = thread::Builder::new().name("web-config".to_owned()).spawn(move || {
            let _ = answer.send(stamps.have_changed().then(|| read(&path)));
        });
        if let Err(error) = looks {
            tracing::warn!(%error, "web configuration not looked at: no thread");
        }
        let reading = answered.await.ok().flatten();
        last.at = Instant::now();
        let Some(Reading { stamps, terms }) = reading else { return };
        last.stamps = stamps;
        match terms.map_err(NotReplaced::from).and_then(|terms| self.replace(terms)) {
            Ok(()) => self.in_force().log("web configuration reloaded"),
            Err(error) => {
                tracing::error!(%error, "web configuration not reloaded; the old one is in force");
            }
        }
    }

    /// Puts `terms` in force if they protect no less.
    fn replace(&self, terms: Terms) -> Result<(), NotReplaced> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let new = terms.protections();
        match in_force.protections().into_iter().zip(new).find(|((_, old), (_, new))| old > new) {
            Some(((name, _), _)) => Err(NotReplaced::Weaker(name)),
            None => {
                *in_force = Arc::new(terms);
                Ok(())
            }
        }
    }
}

impl Terms {
    fn log(&self, message: &'static str) {
        let client_certificate = self.tls.as_ref().is_some_and(|tls| tls.requires_certificate);
        let (tls, users) = (self.tls.is_some(), self.users.len());
        tracing::info!(tls, client_certificate, users, "{message}");
    }

    /// Each kind of protection, and whether these terms have it.
    fn protections(&self) -> [(&'static str, bool); 5] {
        let has = |which: fn(&Tls) -> bool| self.tls.as_ref().is_some_and(which);
        [
            ("tls_server_config", self.tls.is_some()),
            ("min_version", has(|tls| tls.refuses_tls12)),
            ("the client certificate", has(|tls| tls.requires_certificate)),
            ("client_allowed_sans", has(Tls::selects_clients)),
            ("all of basic_auth_users", !self.users.is_empty()),
        ]
    }
}

/// Stamps come before the reading: a change meanwhile shows in the next look.
fn read(path: &Path) -> Reading {
    let mut stamps = Stamps::of([path.to_owned()]);
    let terms = WebConfig::load(path).and_then(|config| {
        stamps.add(config.files());
        terms(config)
    });
    Reading { stamps, terms }
}

fn terms(config: WebConfig) -> Result<Terms, ConfigError> {
    let tls = config.tls.as_ref().map(|tls| tls::build(&config, tls)).transpose()?;
    let headers = config.headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    Ok(Terms { tls, headers: headers.collect(), users: config.users })
}
