//! Child processes and folders that go with the test.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};

use super::poll;

/// A child process that does not outlive the test.
pub(crate) struct Daemon {
    pub(super) child: Child,
    pub(super) log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let program = command.get_program().to_owned();
        let output = File::create(log)?;
        command
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // SAFETY: the closure runs between fork and exec and makes one system call, prctl, which
        // is async-signal-safe; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; returns what it has said, and fails with that if the end was not a good
    /// one.
    pub(crate) fn finish(mut self) -> Result<String> {
        poll("a program to end", || self.try_finish())
    }

    /// The same without waiting: None while it runs.
    pub(crate) fn try_finish(&mut self) -> Result<Option<String>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        let said = fs::read_to_string(&self.log)?;
        ensure!(status.success(), "{} ended with {status}:\n{said}", self.log.display());
        Ok(Some(said))
    }

    /// Fails with what it has said if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.log)?;
            bail!("{} ended with {status}:\n{said}", self.log.display());
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Shown only when the test fails.
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        println!("{}:\n{said}", self.log.display());
    }
}

/// A folder that goes with the test.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tcpwatch-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
