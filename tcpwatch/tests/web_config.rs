//! TLS and passwords of the agent's listeners, with real clients: curl, openssl, Prometheus.
//!
//! Needs root, `curl` and `openssl` (and for one test `prometheus`); without them it says so and is
//! skipped, which `TCPWATCH_REQUIRE_ALL=1` turns into a failure.

#[path = "web_config/certificates.rs"]
mod certificates;
#[path = "web_config/secured.rs"]
mod secured;
mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use certificates::Authority;
use secured::{Curled, Secured, get_unix};
use support::{
    Daemon, Folder, poll,
    prometheus::{Server, find_in_path},
    raise_descriptor_limit, skip, tcpwatch, within,
};

const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";
const SERVER: &str = "IP:127.0.0.1,DNS:localhost";

/// `TLS` with one user, alice, whose password is "open sesame".
fn with_password() -> Result<String> {
    let hash = hash("open sesame")?;
    Ok(format!("{TLS}basic_auth_users:\n  alice: {hash}\n"))
}

/// At the lowest cost.
fn hash(password: &str) -> Result<String> {
    bcrypt::hash(password, 4).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Whether a test that needs these can run.
fn is_possible(programs: &[&str]) -> Result<bool> {
    if !scenes::root_or_skip() {
        return Ok(false);
    }
    for program in programs {
        if find_in_path(program).is_none() {
            skip(&format!("needs the command {program}"))?;
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn every_path_takes_tls_and_a_password_but_the_unix_socket_neither() -> Result<()> {
    if !is_possible(&["curl", "openssl"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    Authority::new(&folder, "ca")?.issue("server", SERVER)?;
    let headers = "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n    \
                   Content-Security-Policy: default-src *\n";
    let agent = Secured::start(&folder, &format!("{}{headers}", with_password()?))?;
    let paths = [
        ("/", 200),
        ("/metrics", 200),
        ("/api/v1/findings", 200),
        ("/api/v1/history", 200),
        ("/runbooks/bind-conflict", 200),
        ("/-/healthy", 200),
        ("/-/ready", 200),
        ("/no/such/path", 404),
    ];
    for (path, status) in paths {
        for user in [&[][..], &["--user", "alice:open"], &["--user", "mallory:open sesame"]] {
            let refused = agent.curl(path, user)?;
            assert_eq!(refused.status, 401, "{path} {user:?}: {refused:?}");
            let answer = refused.answer.to_lowercase();
            for header in
                ["www-authenticate: basic realm=", "cache-control: no-store", "strict-transport"]
            {
                assert!(answer.contains(header), "{header}: {refused:?}");
            }
            assert!(!answer.contains("finding"), "{refused:?}");
        }
        let answered = agent.curl(path, &["--user", "alice:open sesame"])?;
        assert_eq!(answered.status, status, "{path}: {answered:?}");
        assert!(answered.answer.contains("strict-transport-security: max-age=60"), "{answered:?}");
    }
    // The headers of the page itself stay; other answers have the operator's.
    let page = agent.curl("/", &["--user", "alice:open sesame"])?.answer;
    assert!(page.contains("default-src 'none'") && !page.contains("default-src *"), "{page}");
    let healthy = agent.curl("/-/healthy", &["--user", "alice:open sesame"])?.answer;
    assert!(healthy.contains("default-src *"), "{healthy}");

    // Exit code 60: the authority is not known.
    Authority::new(&folder, "strangers")?;
    let distrusted = agent.curl("/metrics", &["--cacert", "strangers.pem"])?;
    assert_eq!(distrusted.exit, Some(60), "{distrusted:?}");
    let plain = Command::new("curl")
        .args(["--silent", "--include", &format!("http://{}/metrics", agent.address)])
        .output()?;
    let plain = Curled::of(&plain)?;
    assert_eq!((plain.exit, plain.status), (Some(0), 400), "{plain:?}");
    assert!(plain.answer.contains("HTTPS"), "{plain:?}");

    let private = get_unix(&folder.path.join("tcpwatch.sock"), "/metrics")?;
    assert!(private.contains(" 200 ") && private.contains("tcpwatch_sockets"), "{private}");
    let doctor =
        tcpwatch().arg("doctor").arg("--config").arg(folder.path.join("tcpwatch.toml")).output()?;
    let doctor = String::from_utf8(doctor.stdout)?;
    assert!(doctor.contains(&format!("running at {}", agent.address)), "{doctor}");
    Ok(())
}

#[test]
fn password_without_tls_is_possible_and_doctor_knows_the_agent() -> Result<()> {
    if !is_possible(&["curl"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    let web = with_password()?.replace(TLS, "");
    let agent = Secured::start(&folder, &web)?;
    let curl = |user: &[&str]| -> Result<Curled> {
        let url = format!("http://{}/metrics", agent.address);
        Curled::of(&Command::new("curl").args(["--silent", "--include", &url]).args(user).output()?)
    };
    assert_eq!(curl(&[])?.status, 401);
    assert_eq!(curl(&["--user", "alice:open sesame"])?.status, 200);
    let config = folder.path.join("tcpwatch.toml");
    let doctor = tcpwatch().arg("doctor").arg("--config").arg(config).output()?;
    let doctor = String::from_utf8(doctor.stdout)?;
    assert!(doctor.contains(&format!("running at {}", agent.address)), "{doctor}");
    Ok(())
}

#[test]
fn client_certificate_of_the_authority_with_an_allowed_name_is_required() -> Result<()> {
    if !is_possible(&["curl", "openssl"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    let authority = Authority::new(&folder, "ca")?;
    authority.issue("server", SERVER)?;
    authority.issue("scraper", "DNS:scraper.example,IP:192.0.2.7")?;
    authority.issue("address", "IP:192.0.2.8")?;
    authority.issue("other", "DNS:other.example")?;
    Authority::new(&folder, "strangers")?.issue("stranger", "DNS:scraper.example")?;
    let shows = |name: &str| {
        let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
        ["--cert".to_owned(), pem, "--key".to_owned(), key]
    };
    let statuses = |web: &str| -> Result<[u16; 5]> {
        let agent = Secured::start(&folder, web)?;
        let mut statuses = [agent.curl("/metrics", &[])?.status, 0, 0, 0, 0];
        for (status, name) in
            statuses.iter_mut().skip(1).zip(["scraper", "address", "other", "stranger"])
        {
            let shown = shows(name);
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            *status = agent.curl("/metrics", &shown)?.status;
        }
        Ok(statuses)
    };
    let client = format!("{TLS}  client_ca_file: ca.pem\n  client_auth_type: ");
    let required = format!("{client}RequireAndVerifyClientCert\n");
    assert_eq!(statuses(&required)?, [0, 200, 200, 200, 0]);
    let sans = format!("{required}  client_allowed_sans: [scraper.example, 192.0.2.8]\n");
    assert_eq!(statuses(&sans)?, [0, 200, 200, 0, 0]);
    let if_given = format!("{client}VerifyClientCertIfGiven\n");
    assert_eq!(statuses(&if_given)?, [200, 200, 200, 200, 0]);
    Ok(())
}

#[test]
fn versions_suites_and_groups_are_those_of_the_file() -> Result<()> {
    if !is_possible(&["openssl"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    Authority::new(&folder, "ca")?.issue("server", SERVER)?;
    // Whether openssl connects, and what it says of the connection.
    let connects = |agent: &Secured<'_>, more: &[&str]| -> Result<(bool, String)> {
        let output = agent.s_client(more)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    {
        let agent = Secured::start(&folder, &format!("{TLS}  min_version: TLS13\n"))?;
        let (is_connected, said) = connects(&agent, &["-tls1_2"])?;
        assert!(!is_connected && said.contains("alert protocol version"), "{said}");
        let (is_connected, said) = connects(&agent, &["-tls1_3"])?;
        assert!(is_connected && said.contains("TLSv1.3"), "{said}");
    }
    let suite = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let web = format!(
        "{TLS}  max_version: TLS12\n  cipher_suites: [{suite}]\n  curve_preferences: [CurveP384]\n"
    );
    let agent = Secured::start(&folder, &web)?;
    let (is_connected, said) = connects(&agent, &[])?;
    assert!(is_connected && said.contains("Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"), "{said}");
    assert!(said.contains("TLSv1.2") && said.contains("secp384r1"), "{said}");
    for other in [
        &["-tls1_3"][..],
        &["-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        &["-groups", "X25519:P-256"],
    ] {
        let (is_connected, said) = connects(&agent, other)?;
        assert!(!is_connected && said.contains("alert"), "{other:?}: {said}");
    }
    Ok(())
}

#[test]
fn prometheus_scrapes_with_tls_and_a_password() -> Result<()> {
    if !is_possible(&["curl", "openssl", "prometheus"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    let authority = Authority::new(&folder, "ca")?;
    authority.issue("server", SERVER)?;
    let agent = Secured::start(&folder, &with_password()?)?;
    let job = |name: &str, password: &str| {
        format!(
            "- job_name: {name}\n  scheme: https\n  tls_config:\n    ca_file: {}\n  basic_auth:\n    \
             username: alice\n    password: {password}\n  static_configs:\n  \
             - targets: [\"{}\"]\n",
            authority.pem().display(),
            agent.address
        )
    };
    let config = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n{}{}",
        job("right", "open sesame"),
        job("wrong", "closed")
    );
    let server = Server::start_with("groups: []\n", &config)?;
    let value = |expression: &str| -> Result<Option<String>> {
        let series = server.api.query(expression)?;
        Ok(series.first().and_then(|it| it["value"][1].as_str()).map(str::to_owned))
    };
    poll("three scrapes with the right password", || {
        let scrapes = value("count_over_time(up{job=\"right\"}[1m])")?;
        Ok(scrapes.filter(|scrapes| scrapes.parse::<u32>().is_ok_and(|scrapes| scrapes >= 3)))
    })?;
    assert_eq!(value("min_over_time(up{job=\"right\"}[1m])")?.as_deref(), Some("1"));
    assert!(value("tcpwatch_build_info{job=\"right\"}")?.is_some());
    poll("a scrape with the wrong password", || value("up{job=\"wrong\"}"))?;
    assert_eq!(value("max_over_time(up{job=\"wrong\"}[1m])")?.as_deref(), Some("0"));
    Ok(())
}

/// 1,000 silent ones, and 300 that stop within or after their first message or send no TLS.
#[test]
fn clients_that_do_not_finish_their_handshake_keep_no_scraper_out() -> Result<()> {
    if !is_possible(&["curl", "openssl"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    Authority::new(&folder, "ca")?.issue("server", SERVER)?;
    let mut agent = Secured::start(&folder, &with_password()?)?;
    let hello = client_hello(agent.address, &folder)?;
    // The default is 1,024, and each client takes one.
    raise_descriptor_limit()?;
    for (first, count) in [
        (&b""[..], 1_000),
        (&hello, 300),
        (&hello[..40], 300),
        (b"\x16\x03\x01\xff\xff garbage", 300),
        (&[0xff; 64], 300),
    ] {
        let clients = held(agent.address, first, count)?;
        let begun = Instant::now();
        let scraped = agent.curl("/metrics", &["--user", "alice:open sesame"])?;
        let took = begun.elapsed();
        assert_eq!(scraped.status, 200, "{scraped:?}");
        println!(
            "a scrape beside {} clients that sent {} bytes took {took:?}",
            clients.len(),
            first.len()
        );
        assert!(took < within(Duration::from_secs(5)), "{took:?}");
    }
    agent.must_run()?;
    let log = agent.log()?;
    assert!(!log.contains("panicked") && !log.contains("TLS handshake not done"), "{log}");
    Ok(())
}

/// So many connections that send `first` and then nothing.
fn held(address: SocketAddr, first: &[u8], count: usize) -> Result<Vec<TcpStream>> {
    let connect = |_| {
        let mut stream = TcpStream::connect_timeout(&address, within(Duration::from_secs(10)))?;
        // It may be closed already: there are more than the agent keeps.
        let _ = stream.write_all(first);
        Ok(stream)
    };
    (0..count).map(connect).collect()
}

/// The first message of openssl, as a listener of this test gets it.
fn client_hello(address: SocketAddr, folder: &Folder) -> Result<Vec<u8>> {
    let listener = std::net::TcpListener::bind((address.ip(), 0))?;
    let at = listener.local_addr()?.to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &at]);
    let _client = Daemon::start(&mut command, &folder.path.join("hello.log"))?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(within(Duration::from_secs(10))))?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut hello)?;
    ensure!(head[0] == 22 && hello.first() == Some(&1), "not a ClientHello: {head:?}");
    Ok([&head[..], &hello].concat())
}

#[test]
fn replaced_files_are_in_force_with_the_next_connection_and_bad_ones_never() -> Result<()> {
    if !is_possible(&["curl", "openssl", "strace"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    let authority = Authority::new(&folder, "ca")?;
    authority.issue("server", SERVER)?;
    let agent = Secured::start(&folder, &with_password()?)?;
    let trace = folder.path.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o"]).arg(&trace).args(["-p", &agent.pid().to_string()]);
    let strace = Daemon::start(&mut strace, &folder.path.join("strace.log"))?;

    let served = || -> Result<String> {
        let output = agent.s_client(&["-showcerts"])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let status = |password: &str| -> Result<u16> {
        Ok(agent.curl("/metrics", &["--user", &format!("alice:{password}")])?.status)
    };
    let said = |part: &str| -> Result<usize> { Ok(agent.log()?.matches(part).count()) };
    let rename = |from: &str, to: &str| fs::rename(folder.path.join(from), folder.path.join(to));
    assert!(served()?.contains("CN = server"), "{}", served()?);

    // A new pair, as a tool for certificates puts it there: each file by itself.
    authority.issue("renewed", SERVER)?;
    rename("renewed.pem", "server.pem")?;
    rename("renewed.key", "server.key")?;
    poll("the new certificate", || Ok(served()?.contains("CN = renewed").then_some(())))?;
    assert!(said("web configuration reloaded")? >= 1, "{}", agent.log()?);

    // A bad key is reported once, however many connections come.
    let errors = said("web configuration not reloaded")?;
    fs::write(folder.path.join("server.key"), "no key\n")?;
    poll("the bad key to be reported", || {
        ensure!(served()?.contains("CN = renewed"), "the old pair is not served");
        Ok((said("web configuration not reloaded")? > errors).then_some(()))
    })?;
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(3) {
        assert_eq!(status("open sesame")?, 200);
    }
    assert_eq!(said("web configuration not reloaded")?, errors + 1, "{}", agent.log()?);
    assert!(agent.log()?.contains("server.key: no private key"), "{}", agent.log()?);
    authority.issue("server", SERVER)?;
    poll("a good pair again", || Ok(served()?.contains("CN = server").then_some(())))?;

    // Another password.
    let hash = hash("new")?;
    folder.write("next.yml", &format!("{TLS}basic_auth_users:\n  alice: {hash}\n"))?;
    rename("next.yml", "web.yml")?;
    poll("the new password", || Ok((status("new")? == 200).then_some(())))?;
    assert_eq!(status("open sesame")?, 401);

    // A file that is written half, or emptied, opens nothing.
    for less in ["", TLS, "basic_auth_users:\n  alice: nonsense\n", "tls_server_config: [\n"] {
        let errors = said("web configuration not reloaded")?;
        folder.write("web.yml", less)?;
        poll("the web configuration to be refused", || {
            ensure!(status("new")? == 200 && status("open sesame")? == 401, "{less:?} is in force");
            Ok((said("web configuration not reloaded")? > errors).then_some(()))
        })?;
    }
    let log = agent.log()?;
    assert!(log.contains("it takes all of basic_auth_users away"), "{log}");
    assert!(log.contains("it takes tls_server_config away"), "{log}");

    // All of that under the filter of system calls.
    for word in ["system calls not filtered", "unreadable", "panicked"] {
        assert!(!log.contains(word), "{log}");
    }
    drop(agent);
    strace.finish()?;
    let trace = fs::read_to_string(trace)?;
    let refused = |line: &&str| line.contains("ENOSYS") && !line.contains("clone3");
    // glibc starts a thread by clone() then.
    let refused: Vec<_> = trace.lines().filter(refused).collect();
    assert!(!trace.is_empty() && refused.is_empty(), "{refused:#?}");
    Ok(())
}

/// Each stranger has another password, so each costs a check of its own.
#[test]
fn strangers_with_wrong_passwords_do_not_slow_a_scraper_that_is_known() -> Result<()> {
    if !is_possible(&[])? {
        return Ok(());
    }
    const STRANGERS: usize = 200;
    let folder = Folder::new()?;
    let hash = bcrypt::hash("open sesame", 10).map_err(|error| anyhow::anyhow!("{error}"))?;
    let agent = Secured::start(&folder, &format!("basic_auth_users:\n  alice: {hash}\n"))?;
    let begin = |password: &str| -> Result<TcpStream> {
        let encoded = BASE64_STANDARD.encode(format!("alice:{password}"));
        let mut stream = TcpStream::connect(agent.address)?;
        stream.set_read_timeout(Some(within(Duration::from_secs(10))))?;
        write!(
            stream,
            "GET /metrics HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {encoded}\r\n\r\n"
        )?;
        Ok(stream)
    };
    let status = |mut stream: TcpStream| -> Result<String> {
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
    };
    assert_eq!(status(begin("open sesame")?)?, "200");
    let strangers: Result<Vec<_>> = (0..STRANGERS).map(|it| begin(&format!("{it}"))).collect();
    let strangers = strangers?;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(status(begin("open sesame")?)?, "200");
        let took = begun.elapsed();
        println!("a scrape beside strangers took {took:?}");
        assert!(took < within(Duration::from_secs(2)), "{took:?}");
    }
    let inventories = || get_unix(&folder.path.join("tcpwatch.sock"), "/metrics");
    assert!(inventories()?.contains("tcpwatch_inventory_timestamp_seconds"));
    for stranger in strangers {
        // Those that had to give way have no answer; 503 after a long wait for the check.
        assert!(matches!(status(stranger).as_deref(), Ok("401" | "503" | "") | Err(_)));
    }
    Ok(())
}

#[test]
fn key_that_only_privileges_can_read_is_reported_at_the_start() -> Result<()> {
    if !is_possible(&["curl", "openssl"])? {
        return Ok(());
    }
    let folder = Folder::new()?;
    Authority::new(&folder, "ca")?.issue("server", SERVER)?;
    let key = folder.path.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(&key, Some(65_534), Some(65_534))?;
    let agent = Secured::start(&folder, TLS)?;
    let log = agent.log()?;
    assert!(log.contains("web configuration unreadable without privileges"), "{log}");
    assert_eq!(agent.curl("/-/ready", &[])?.status, 200);
    Ok(())
}

#[test]
fn bad_web_configuration_is_78_with_its_place() -> Result<()> {
    let folder = Folder::new()?;
    let good = hash("x")?;
    let users = format!("basic_auth_users:\n  alice: {good}\n");
    let checks = |more: &[&str]| tcpwatch().args(["config", "check"]).args(more).output();
    for (name, text, place) in [
        ("unknown", "tls_server_confg: {}\n", ":1:1: unknown key `tls_server_confg`; did you mean"),
        ("missing", TLS, ":2:14: "),
        ("clear", "basic_auth_users:\n  alice: hunter2\n", ":2:10: basic_auth_users.alice: "),
    ] {
        let file = folder.write(&format!("{name}.yml"), text)?;
        let file = file.to_str().unwrap_or_default();
        let run = tcpwatch().args(["run", "--web.config.file", file]).output()?;
        for output in [checks(&["--web.config.file", file])?, run] {
            let said = String::from_utf8(output.stderr)?;
            assert_eq!(output.status.code(), Some(78), "{name}: {said}");
            assert_eq!(said.lines().count(), 1, "{name}: {said}");
            assert!(said.contains(&format!("{file}{place}")), "{name}: {said}");
            assert!(!said.contains("hunter2"), "a secret is in {said}");
        }
    }
    let file = folder.write("good.yml", &users)?;
    let file = file.to_str().unwrap_or_default();
    let output = checks(&["--web.config.file", file])?;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout)?, format!("{file}: OK\n"));
    assert_eq!(checks(&["--web.config.file", "/nonexistent/web.yml"])?.status.code(), Some(78));
    assert_eq!(checks(&[])?.status.code(), Some(64));
    Ok(())
}
