//! The section `tls_server_config`.

use std::path::{Path, PathBuf};

use super::{
    Place, Placed, Refusal,
    section::Section,
    yaml::{Node, Value},
};

const PATH: &str = "tls_server_config";

const KEYS: [&str; 13] = [
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "cipher_suites",
    "curve_preferences",
    "min_version",
    "max_version",
    "prefer_server_cipher_suites",
    "client_allowed_sans",
];

/// Cipher suites of TLS 1.2 that can be chosen, by their names at IANA.
const CIPHER_SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Those of TLS 1.3. With the toolkit too, they are always there and no list selects among them.
const OF_TLS13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// PEM text, or the file that has it.
#[derive(Clone)]
pub enum Pem {
    /// Text within the web configuration.
    Inline(String),
    /// A file, relative to nothing.
    File(PathBuf),
}

/// Whether clients show a certificate.
#[derive(Clone)]
pub enum ClientCertificate {
    /// None is requested.
    Ignored,
    /// One that is shown must be of this authority.
    VerifiedIfGiven(Placed<Pem>),
    /// One of this authority must be shown, with one of these alternative names if there are any.
    Required(Placed<Pem>, Vec<String>),
}

/// A group for the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// Curve25519.
    X25519,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Tls12,
    Tls13,
}

/// TLS of the listeners.
#[derive(Clone)]
pub struct TlsServer {
    /// The certificate with those that lead to its authority.
    pub certificate: Placed<Pem>,
    /// The private key of the certificate.
    pub key: Placed<Pem>,
    /// Certificates of clients.
    pub client: ClientCertificate,
    /// Whether TLS 1.2 is spoken.
    pub tls12: bool,
    /// Whether TLS 1.3 is spoken.
    pub tls13: bool,
    /// Suites of TLS 1.2 in the order of preference; all if empty.
    pub cipher_suites: Vec<&'static str>,
    /// Whether the order of this server decides, not the client's.
    pub own_order: bool,
    /// Groups in the order of preference; all if empty.
    pub curves: Vec<Curve>,
}

/// `None` for a section that sets nothing of TLS, as with the toolkit.
pub(super) fn read(node: Node, folder: &Path) -> Result<Option<TlsServer>, Refusal> {
    let place = node.place;
    let mut section = Section::of(PATH, node, &KEYS)?;
    let certificate = pem(&mut section, "cert", "cert_file", folder)?;
    let key = pem(&mut section, "key", "key_file", folder)?;
    let authority = pem(&mut section, "client_ca", "client_ca_file", folder)?;
    let auth = section.text("client_auth_type")?;
    let is_enabled =
        certificate.is_some() || key.is_some() || authority.is_some() || auth.is_some();
    section.unsupported("client_allowed_sans", |value| match value {
        Value::List(sans) if sans.is_empty() => Some("is empty: no client could connect"),
        _ => None,
    })?;
    let sans = section.texts("client_allowed_sans")?;
    let client = client_certificate(&section, auth, authority, sans)?;
    let (tls12, tls13) = versions(&mut section)?;
    let own_order = section.boolean("prefer_server_cipher_suites")?.is_none_or(|own| own.value);
    let (cipher_suites, tls12) = cipher_suites(&mut section, tls12, tls13)?;
    let curves = curves(&mut section)?;
    if !is_enabled {
        return Ok(None);
    }
    let missing =
        |name: &str| place.refuse(format!("{PATH}: one of {name} and {name}_file is missing"));
    Ok(Some(TlsServer {
        certificate: certificate.ok_or_else(|| missing("cert"))?,
        key: key.ok_or_else(|| missing("key"))?,
        client,
        tls12,
        tls13,
        cipher_suites,
        own_order,
        curves,
    }))
}

fn pem(
    section: &mut Section,
    inline: &str,
    file: &str,
    folder: &Path,
) -> Result<Option<Placed<Pem>>, Refusal> {
    let text = section.text(inline)?.map(|it| (Pem::Inline(it.value), it.place));
    let path = section.text(file)?.map(|it| (Pem::File(folder.join(it.value)), it.place));
    match (text, path) {
        (Some((_, place)), Some(_)) => {
            let why = format!("{PATH}: {inline} and {file} exclude each other");
            Err(place.refuse(why))
        }
        (text, path) => {
            Ok(text.or(path).map(|(value, place): (Pem, Place)| Placed { value, place }))
        }
    }
}

fn client_certificate(
    section: &Section,
    auth: Option<Placed<String>>,
    authority: Option<Placed<Pem>>,
    sans: Vec<Placed<String>>,
) -> Result<ClientCertificate, Refusal> {
    const KEY: &str = "client_auth_type";
    let policy = auth.as_ref().map_or("NoClientCert", |auth| auth.value.as_str());
    let san = sans.first();
    let client = match (policy, authority, &auth) {
        ("NoClientCert", None, _) => ClientCertificate::Ignored,
        ("NoClientCert", Some(authority), _) => {
            let why = "client_ca_file has no effect without client_auth_type";
            return Err(authority.place.refuse(format!("{PATH}: {why}")));
        }
        ("VerifyClientCertIfGiven", Some(authority), _) => {
            ClientCertificate::VerifiedIfGiven(authority)
        }
        ("RequireAndVerifyClientCert", Some(authority), _) => {
            for san in &sans {
                // The name of a mailbox has no path or scheme before its @.
                if san.value.contains('@') && !san.value.contains([':', '/']) {
                    let why = "the address of a mailbox is not supported: expected a host name, \
                               an IP address or a URI";
                    return Err(section.refuse("client_allowed_sans", san, why));
                }
            }
            let sans = sans.into_iter().map(|san| san.value).collect();
            return Ok(ClientCertificate::Required(authority, sans));
        }
        ("VerifyClientCertIfGiven" | "RequireAndVerifyClientCert", None, Some(auth)) => {
            let why = format!("{policy} needs client_ca_file");
            return Err(section.refuse(KEY, auth, &why));
        }
        ("RequestClientCert" | "RequireClientCert" | "RequireAnyClientCert", _, Some(auth)) => {
            let why = format!(
                "{policy} is not supported: it verifies no certificate, so any client could make \
                 one; use RequireAndVerifyClientCert"
            );
            return Err(section.refuse(KEY, auth, &why));
        }
        (_, _, Some(auth)) => {
            let why = format!(
                "expected NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert, \
                 found {:?}",
                auth.value
            );
            return Err(section.refuse(KEY, auth, &why));
        }
        (_, _, None) => ClientCertificate::Ignored,
    };
    match san {
        Some(san) => {
            let why = "needs client_auth_type RequireAndVerifyClientCert";
            Err(section.refuse("client_allowed_sans", san, why))
        }
        None => Ok(client),
    }
}

/// Whether TLS 1.2 and TLS 1.3 are spoken.
fn versions(section: &mut Section) -> Result<(bool, bool), Refusal> {
    let min = version(section, "min_version")?;
    let max = version(section, "max_version")?;
    let least = min.as_ref().map_or(Version::Tls12, |min| min.value);
    let most = max.as_ref().map_or(Version::Tls13, |max| max.value);
    if let Some(max) = max
        && most < least
    {
        return Err(section.refuse("max_version", &max, "it is below min_version"));
    }
    Ok((least <= Version::Tls12, most >= Version::Tls13))
}

fn version(section: &mut Section, name: &str) -> Result<Option<Placed<Version>>, Refusal> {
    let Some(text) = section.text(name)? else { return Ok(None) };
    let value = match text.value.as_str() {
        "TLS12" => Version::Tls12,
        "TLS13" => Version::Tls13,
        "TLS10" | "TLS11" => {
            let why = format!(
                "{} is not supported: RFC 8996 forbids it; expected TLS12 or TLS13",
                text.value
            );
            return Err(section.refuse(name, &text, &why));
        }
        other => {
            let why = format!("expected TLS12 or TLS13, found {other:?}");
            return Err(section.refuse(name, &text, &why));
        }
    };
    Ok(Some(Placed { value, place: text.place }))
}

/// The suites of TLS 1.2, and whether it is spoken still: not without one.
fn cipher_suites(
    section: &mut Section,
    tls12: bool,
    tls13: bool,
) -> Result<(Vec<&'static str>, bool), Refusal> {
    const KEY: &str = "cipher_suites";
    let given = section.texts(KEY)?;
    let mut suites = Vec::new();
    for name in &given {
        let text = name.value.as_str();
        if let Some(suite) = CIPHER_SUITES.iter().find(|suite| **suite == text) {
            suites.push(*suite);
        } else if OF_TLS13.contains(&text) {
            // Always there.
        } else if text.starts_with("TLS_RSA_") || text.contains("_CBC_") || text.contains("_RC4_") {
            let why = format!(
                "{text} is not supported: only suites with ECDHE and AEAD are safe; expected {}",
                CIPHER_SUITES.join(", ")
            );
            return Err(section.refuse(KEY, name, &why));
        } else {
            let why = format!("unknown cipher suite {text:?}; known: {}", CIPHER_SUITES.join(", "));
            return Err(section.refuse(KEY, name, &why));
        }
    }
    match given.first() {
        Some(first) if suites.is_empty() && !tls13 => {
            Err(section.refuse(KEY, first, "none of them is of TLS 1.2, and max_version is TLS12"))
        }
        Some(_) if suites.is_empty() => Ok((suites, false)),
        _ => Ok((suites, tls12)),
    }
}

fn curves(section: &mut Section) -> Result<Vec<Curve>, Refusal> {
    const KEY: &str = "curve_preferences";
    const KNOWN: &str = "CurveP256, CurveP384 or X25519";
    let names = section.texts(KEY)?;
    let mut curves = Vec::new();
    for name in &names {
        curves.push(match name.value.as_str() {
            "CurveP256" => Curve::P256,
            "CurveP384" => Curve::P384,
            "X25519" => Curve::X25519,
            text @ ("CurveP521" | "X25519MLKEM768") => {
                let why = format!(
                    "{text} is not supported: the TLS library does not have it; expected {KNOWN}"
                );
                return Err(section.refuse(KEY, name, &why));
            }
            text => {
                let why = format!("unknown curve {text:?}; expected {KNOWN}");
                return Err(section.refuse(KEY, name, &why));
            }
        });
    }
    Ok(curves)
}
