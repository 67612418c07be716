//! From a web configuration to TLS as the library takes it.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    NamedGroup, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{Error as PemError, PemObject},
    },
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use webpki::EndEntityCert;

use crate::config::{ClientCertificate, ConfigError, Curve, Pem, Placed, TlsServer, WebConfig};

/// HTTP/1.1 and nothing else is served (RFC 7301 section 6).
const PROTOCOL: &[u8] = b"http/1.1";

/// TLS, ready for connections.
pub(super) struct Tls {
    pub(super) server: Arc<ServerConfig>,
    /// Whether a client must show a certificate.
    pub(super) requires_certificate: bool,
    /// Whether a client must speak TLS 1.3.
    pub(super) refuses_tls12: bool,
    /// Alternative names of which a client's certificate must have one, if there are any.
    allowed_sans: Vec<String>,
}

/// Reads certificate, key and authority. `tls` is that of `config`.
pub(super) fn build(config: &WebConfig, tls: &TlsServer) -> Result<Tls, ConfigError> {
    let provider = Arc::new(provider(tls));
    let (requires_certificate, allowed_sans) = match &tls.client {
        ClientCertificate::Required(_, sans) => (true, sans.clone()),
        ClientCertificate::Ignored | ClientCertificate::VerifiedIfGiven(_) => (false, Vec::new()),
    };
    let verifier = verifier(config, tls, &provider)?;
    let certificate = &tls.certificate;
    let chain = certificates(config, certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&config.read(&tls.key)?).map_err(|error| {
        let why = match error {
            PemError::NoItemsFound => "no private key without a passphrase is in this PEM text",
            _ => "not PEM text",
        };
        config.refuse(&tls.key, &said(&tls.key, why))
    })?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(tls))
        .map_err(|error| config.refuse(certificate, &error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => config
                .refuse(&tls.key, &said(&tls.key, "the key does not belong to the certificate")),
            rustls::Error::InvalidCertificate(_) => {
                config.refuse(certificate, &said(certificate, &error.to_string()))
            }
            error => config.refuse(&tls.key, &said(&tls.key, &error.to_string())),
        })?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    server.ignore_client_order = tls.own_order;
    let refuses_tls12 = !tls.tls12;
    Ok(Tls { server: Arc::new(server), requires_certificate, refuses_tls12, allowed_sans })
}

/// `why` with the file that it is about.
fn said(pem: &Placed<Pem>, why: &str) -> String {
    match &pem.value {
        Pem::Inline(_) => why.to_owned(),
        Pem::File(path) => format!("{}: {why}", path.display()),
    }
}

/// The cipher suites and groups of the configuration.
fn provider(tls: &TlsServer) -> CryptoProvider {
    let all = ring::default_provider();
    let is_of_tls12 = |suite: &SupportedCipherSuite| suite.tls13().is_none();
    let mut cipher_suites: Vec<_> =
        all.cipher_suites.iter().filter(|suite| !is_of_tls12(suite)).copied().collect();
    if tls.cipher_suites.is_empty() {
        cipher_suites.extend(all.cipher_suites.iter().filter(|suite| is_of_tls12(suite)));
    }
    for name in &tls.cipher_suites {
        let has_name = |suite: &&SupportedCipherSuite| suite.suite().as_str() == Some(name);
        cipher_suites.extend(all.cipher_suites.iter().find(has_name));
    }
    let mut kx_groups = all.kx_groups.clone();
    if !tls.curves.is_empty() {
        let group = |curve: &Curve| match curve {
            Curve::P256 => NamedGroup::secp256r1,
            Curve::P384 => NamedGroup::secp384r1,
            Curve::X25519 => NamedGroup::X25519,
        };
        let known = |name| all.kx_groups.iter().find(|known| known.name() == name);
        kx_groups = tls.curves.iter().map(group).filter_map(known).copied().collect();
    }
    CryptoProvider { cipher_suites, kx_groups, ..all }
}

fn versions(tls: &TlsServer) -> Vec<&'static SupportedProtocolVersion> {
    let versions = [(tls.tls13, &TLS13), (tls.tls12, &TLS12)];
    versions.into_iter().filter_map(|(is_on, version)| is_on.then_some(version)).collect()
}

fn verifier(
    config: &WebConfig,
    tls: &TlsServer,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
    let (authority, is_required) = match &tls.client {
        ClientCertificate::Ignored => return Ok(Arc::new(NoClientAuth)),
        ClientCertificate::VerifiedIfGiven(authority) => (authority, false),
        ClientCertificate::Required(authority, _) => (authority, true),
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(config, authority)? {
        roots
            .add(certificate)
            .map_err(|error| config.refuse(authority, &said(authority, &error.to_string())))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build();
    verifier.map_err(|error| config.refuse(authority, &said(authority, &error.to_string())))
}

fn certificates(
    config: &WebConfig,
    pem: &Placed<Pem>,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let text = config.read(pem)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(config.refuse(pem, &said(pem, "no certificate is in this PEM text"))),
        Err(_) => Err(config.refuse(pem, &said(pem, "not PEM text"))),
    }
}

impl Tls {
    /// Whether only some of the clients that the authority knows may connect.
    pub(super) fn selects_clients(&self) -> bool {
        !self.allowed_sans.is_empty()
    }

    /// Whether a client with this certificate may connect. The library has verified it.
    pub(super) fn admits(&self, certificate: Option<&CertificateDer<'_>>) -> bool {
        if self.allowed_sans.is_empty() {
            return true;
        }
        let certificate = certificate.and_then(|der| EndEntityCert::try_from(der).ok());
        certificate.is_some_and(|it| self.allowed_sans.iter().any(|san| has_san(&it, san)))
    }
}

/// Whether a certificate has this alternative name, which is compared letter by letter.
fn has_san(certificate: &EndEntityCert<'_>, san: &str) -> bool {
    if let Ok(address) = san.parse::<IpAddr>() {
        let name = ServerName::IpAddress(address.into());
        return certificate.verify_is_valid_for_subject_name(&name).is_ok();
    }
    certificate.valid_dns_names().any(|name| name == san)
        || certificate.valid_uri_names().any(|name| name == san)
}
