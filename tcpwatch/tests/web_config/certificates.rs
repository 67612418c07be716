//! Certificates of a test, made by openssl.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};

use crate::support::Folder;

const CONFIGURATION: &str = "\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
[leaf]
basicConstraints = critical, CA:FALSE
subjectAltName = ${ENV::SAN}
";

/// An authority and its certificates, as `NAME.pem` and `NAME.key` in a folder.
pub(crate) struct Authority<'a> {
    folder: &'a Folder,
    name: &'static str,
}

impl<'a> Authority<'a> {
    pub(crate) fn new(folder: &'a Folder, name: &'static str) -> Result<Self> {
        folder.write("openssl.cnf", CONFIGURATION)?;
        let authority = Self { folder, name };
        authority.request(name, "DNS:none", &["-extensions", "authority"])?;
        Ok(authority)
    }

    /// The file of its certificate.
    pub(crate) fn pem(&self) -> PathBuf {
        self.folder.path.join(format!("{}.pem", self.name))
    }

    /// Makes `NAME.pem` and `NAME.key` with these alternative names.
    pub(crate) fn issue(&self, name: &str, sans: &str) -> Result<()> {
        let (pem, key) = (format!("{}.pem", self.name), format!("{}.key", self.name));
        self.request(name, sans, &["-extensions", "leaf", "-CA", &pem, "-CAkey", &key])
    }

    fn request(&self, name: &str, sans: &str, more: &[&str]) -> Result<()> {
        let output = Command::new("openssl")
            .args(["req", "-x509", "-config", "openssl.cnf", "-days", "2", "-nodes"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", &format!("/CN={name}"), "-out", &format!("{name}.pem")])
            .args(["-keyout", &format!("{name}.key")])
            .args(more)
            .env("SAN", sans)
            .current_dir(&self.folder.path)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
