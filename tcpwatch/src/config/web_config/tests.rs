//! Accepted and refused web configurations; each refusal word by word, with its place.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// `htpasswd -nbBC 10 "" fakepassword`, from the sources of the toolkit.
const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
const PAIR: &str = "tls_server_config:\n  cert_file: a.pem\n  key_file: /b/a.key\n";

fn parse(text: &str) -> Result<WebConfig, ConfigError> {
    WebConfig::parse(text, Path::new("/etc/tcpwatch/web.yml"))
}

fn accepted(text: &str) -> WebConfig {
    parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn tls(text: &str) -> TlsServer {
    accepted(text).tls.expect("TLS")
}

#[track_caller]
fn assert_refused(text: &str, expected: &str) {
    match parse(text) {
        Ok(_) => panic!("accepted: {text:?}"),
        Err(error) => {
            let line = error.to_string();
            let line = line.strip_prefix("/etc/tcpwatch/web.yml:").expect("the file comes first");
            assert_eq!(line, expected, "{text:?}");
        }
    }
}

#[test]
fn empty_file_protects_nothing() {
    for text in ["", "# nothing\n", "---\n", "{}\n", "tls_server_config:\nbasic_auth_users: {}\n"] {
        let config = accepted(text);
        assert!(config.tls.is_none() && config.users.is_empty(), "{text:?}");
        assert!(config.headers.is_empty() && config.files().is_empty(), "{text:?}");
    }
}

#[test]
fn paths_are_relative_to_the_file_and_defaults_are_those_of_the_toolkit() {
    let config = accepted(PAIR);
    let files = ["/etc/tcpwatch/a.pem", "/b/a.key"].map(PathBuf::from);
    assert_eq!(config.files(), files);
    let tls = config.tls.expect("TLS");
    assert!(tls.tls12 && tls.tls13 && tls.own_order);
    assert!(tls.cipher_suites.is_empty() && tls.curves.is_empty());
    assert!(matches!(tls.client, ClientCertificate::Ignored));
}

#[test]
fn every_key_of_the_toolkit_is_read() {
    let text = format!(
        "tls_server_config:\n  cert: |\n    -----BEGIN\n    x\n  key: \"y\"\n  client_ca: z\n  \
         client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [a.example, ::1]\n  \
         min_version: TLS12\n  max_version: \"TLS12\"\n  prefer_server_cipher_suites: no\n  \
         cipher_suites:\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_AES_128_GCM_SHA256\n  \
         curve_preferences: [X25519, CurveP256]\nhttp_server_config:\n  http2: false\n  headers:\n    \
         X-Frame-Options: deny\n    X-XSS-Protection: ''\nbasic_auth_users:\n  alice: {HASH}\n  \
         \"bob smith\": '{HASH}'\n"
    );
    let config = accepted(&text);
    assert_eq!(config.headers, [("X-Frame-Options", "deny".to_owned())]);
    let users: Vec<_> = config.users.iter().map(|(user, hash)| (&**user, hash.as_str())).collect();
    assert_eq!(users, [("alice", HASH), ("bob smith", HASH)]);
    assert!(config.files().is_empty());
    let tls = config.tls.expect("TLS");
    assert!(matches!(&tls.certificate.value, Pem::Inline(text) if text == "-----BEGIN\nx\n"));
    assert!(tls.tls12 && !tls.tls13 && !tls.own_order);
    assert_eq!(tls.cipher_suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
    assert_eq!(tls.curves, [Curve::X25519, Curve::P256]);
    let ClientCertificate::Required(authority, sans) = tls.client else { panic!("not required") };
    assert!(matches!(authority.value, Pem::Inline(text) if text == "z"));
    assert_eq!(sans, ["a.example", "::1"]);
}

#[test]
fn list_without_a_suite_of_tls_1_2_leaves_tls_1_3() {
    let text = format!("{PAIR}  cipher_suites: [TLS_AES_256_GCM_SHA384]\n");
    let tls = tls(&text);
    assert!(tls.tls13 && !tls.tls12 && tls.cipher_suites.is_empty());
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    assert_refused(
        "tls_server_confg: {}\n",
        "1:1: unknown key `tls_server_confg`; did you mean `tls_server_config`?",
    );
    assert_refused(
        "tls_server_config:\n  cert_fil: x\n",
        "2:3: unknown key `tls_server_config.cert_fil`; did you mean `cert_file`?",
    );
    assert_refused(
        "http_server_config: { headers: { Server: x } }\n",
        "1:34: unknown key `http_server_config.headers.Server`; known here: \
         `Content-Security-Policy`, `Strict-Transport-Security`, `X-Content-Type-Options`, \
         `X-Frame-Options`, `X-XSS-Protection`",
    );
    assert_refused(
        "é: 1\n",
        "1:1: unknown key `\"é\"`; known here: `tls_server_config`, \
        `http_server_config`, `basic_auth_users`, `rate_limit`",
    );
}

#[test]
fn values_of_the_toolkit_that_are_not_supported_are_refused_with_the_reason() {
    let with = |more: &str| format!("{PAIR}  {more}\n");
    for (text, expected) in [
        (
            "rate_limit: { interval: 1s }\n".to_owned(),
            "1:1: rate_limit is not supported: connections are limited, and one answer serves all \
             for 200 ms",
        ),
        (
            "http_server_config:\n  http2: true\n".to_owned(),
            "2:10: http_server_config.http2: true is not supported: HTTP/1.1 is served",
        ),
        (
            with("min_version: TLS10"),
            "4:16: tls_server_config.min_version: TLS10 is not supported: RFC 8996 forbids it; \
             expected TLS12 or TLS13",
        ),
        (
            with("client_auth_type: RequireAnyClientCert"),
            "4:21: tls_server_config.client_auth_type: RequireAnyClientCert is not supported: it \
             verifies no certificate, so any client could make one; use RequireAndVerifyClientCert",
        ),
        (
            with("curve_preferences: [X25519, CurveP521]"),
            "4:31: tls_server_config.curve_preferences: CurveP521 is not supported: the TLS library \
             does not have it; expected CurveP256, CurveP384 or X25519",
        ),
        (
            with(
                "client_ca: x\n  client_auth_type: RequireAndVerifyClientCert\n  \
                  client_allowed_sans: [a@example.org]",
            ),
            "6:25: tls_server_config.client_allowed_sans: the address of a mailbox is not \
             supported: expected a host name, an IP address or a URI",
        ),
        (
            format!("basic_auth_users: {{ a: {} }}\n", HASH.replace("$10$", "$15$")),
            "1:24: basic_auth_users.a: cost 15 is not supported: a check would take seconds of \
             this host's CPU; expected at most 14",
        ),
    ] {
        assert_refused(&text, expected);
    }
    for suite in ["TLS_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"] {
        let error = parse(&with(&format!("cipher_suites: [{suite}]"))).err().expect("refused");
        let expected = format!("4:19: tls_server_config.cipher_suites: {suite} is not supported");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn contradictions_are_refused() {
    for (text, expected) in [
        (
            "tls_server_config:\n  cert_file: a.pem\n",
            "2:3: tls_server_config: one of key and key_file is missing",
        ),
        (
            "tls_server_config:\n  client_auth_type: NoClientCert\n",
            "2:3: tls_server_config: one of cert and cert_file is missing",
        ),
        (
            "tls_server_config:\n  cert_file: a.pem\n  cert: x\n  key: y\n",
            "3:9: tls_server_config: cert and cert_file exclude each other",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_ca_file: ca.pem\n",
            "4:19: tls_server_config: client_ca_file has no effect without client_auth_type",
        ),
        (
            "tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n",
            "2:21: tls_server_config.client_auth_type: RequireAndVerifyClientCert needs \
             client_ca_file",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_allowed_sans: [a]\n",
            "4:25: tls_server_config.client_allowed_sans: needs client_auth_type \
             RequireAndVerifyClientCert",
        ),
        (
            "tls_server_config:\n  client_allowed_sans: []\n",
            "2:3: tls_server_config.client_allowed_sans is empty: no client could connect",
        ),
        (
            "tls_server_config:\n  min_version: TLS13\n  max_version: TLS12\n",
            "3:16: tls_server_config.max_version: it is below min_version",
        ),
        (
            "tls_server_config:\n  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
            "3:19: tls_server_config.cipher_suites: none of them is of TLS 1.2, and max_version is \
             TLS12",
        ),
    ] {
        assert_refused(text, expected);
    }
}

#[test]
fn impossible_values_are_refused_and_secrets_are_not_repeated() {
    let hash = "expected a bcrypt hash ($2y$10$...), as `htpasswd -nBC 10 \"\"` prints";
    for (text, expected) in [
        ("basic_auth_users: { alice: hunter2 }", format!("1:28: basic_auth_users.alice: {hash}")),
        (
            "basic_auth_users: { alice: [hunter2] }",
            "1:28: basic_auth_users.alice: expected a bcrypt hash, found a list".to_owned(),
        ),
        (
            "basic_auth_users: { alice:hunter2 }",
            "1:21: basic_auth_users.alice: a user name cannot contain a colon".to_owned(),
        ),
        (
            "basic_auth_users: { $2y$10$abcdefghijklmnopqrstuv: alice }",
            "1:21: basic_auth_users: expected a user name before the colon, found a bcrypt hash"
                .to_owned(),
        ),
        (
            "basic_auth_users: [alice]",
            "1:19: basic_auth_users: expected a mapping, found a list".to_owned(),
        ),
        (
            "tls_server_config: { key: [a] }",
            "1:27: tls_server_config.key: expected text, found a list".to_owned(),
        ),
        (
            "tls_server_config: { cipher_suites: a }",
            "1:37: tls_server_config.cipher_suites: expected a list of texts, found \"a\""
                .to_owned(),
        ),
        (
            "tls_server_config: { prefer_server_cipher_suites: 'true' }",
            "1:51: tls_server_config.prefer_server_cipher_suites: expected true or false, found \
             \"true\""
                .to_owned(),
        ),
        (
            "http_server_config: { headers: { X-Frame-Options: allow } }",
            "1:51: http_server_config.headers.X-Frame-Options: expected deny or sameorigin, found \
             \"allow\""
                .to_owned(),
        ),
        (
            "http_server_config: { headers: { X-XSS-Protection: \"1\\r\\nSet-Cookie: a\" } }",
            "1:52: http_server_config.headers.X-XSS-Protection: expected printable ASCII in one \
             line"
                .to_owned(),
        ),
        ("a list\n", "1:1: the file: expected a mapping, found a single value".to_owned()),
    ] {
        assert_refused(text, &expected);
    }
}

#[test]
fn yaml_that_is_broken_or_grows_is_refused() {
    for (text, expected) in [
        (
            "basic_auth_users: {}\nbasic_auth_users: {}\n",
            "2:1: key \"basic_auth_users\" is there twice",
        ),
        ("a: &x {}\nb: *x\n", "2:4: an alias (*) is not supported"),
        ("a: !!str b\n", "1:4: a tag (!) is not supported"),
        ("--- {}\n--- {}\n", "2:1: expected one document, found another"),
        ("? [a]\n: b\n", "1:3: expected a key, found a list"),
    ] {
        assert_refused(text, expected);
    }
    assert_refused(&"[".repeat(10), "1:10: nested more than 8 levels deep");
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse("a: [\n").is_err_and(|error| error.to_string().contains("not YAML")));
}

proptest! {
    #[test]
    fn no_text_panics_or_breaks_the_line(text in "[a-z_:{}\\[\\]\"'|>&*!#%@\\-\\n \\t\u{1b}é]{0,200}") {
        if let Err(error) = parse(&text) {
            let line = error.to_string();
            prop_assert!(crate::plain::is_plain(&line), "{line:?}");
        }
    }
}
