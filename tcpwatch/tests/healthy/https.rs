//! HTTPS whose server closes first: nginx without keep-alive, and clients of four kinds.
//!
//! The client's close_notify arrives after the server's close, so nearly each request ends in a
//! reset. No data is lost by it.

use anyhow::Result;

use crate::{
    stage::{Scene, Stage},
    support::Daemon,
};

const PORT: u16 = 8_443;

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "https",
        name: "https-curl",
        needs: &["nginx", "openssl", "curl"],
        play: curl_ten_times_a_second,
    },
    Scene {
        group: "https",
        name: "https-ab",
        needs: &["nginx", "openssl", "ab"],
        play: ab_a_hundred_times_a_second,
    },
    Scene {
        group: "https",
        name: "https-python",
        needs: &["nginx", "openssl", "python3"],
        play: python,
    },
    Scene { group: "https", name: "https-node", needs: &["nginx", "openssl", "node"], play: node },
];

/// Of more than a thousand requests, or of some two hundred runs of ab.
const MAY_FAIL: u32 = 20;

/// nginx with a certificate of its own making, closing after each answer.
fn nginx(stage: &Stage) -> Result<Daemon> {
    let folder = stage.folder.path.display();
    let (key, certificate) = (format!("{folder}/key.pem"), format!("{folder}/certificate.pem"));
    let curve = "ec_paramgen_curve:prime256v1";
    let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-subj", "/CN=x"];
    let files = ["-keyout", key.as_str(), "-out", certificate.as_str()];
    stage.run("openssl", &[&request[..], &files[..]].concat())?.finish()?;
    stage.nginx(
        &format!(
            "keepalive_timeout 0; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             server {{ listen 127.0.0.1:{PORT} ssl; location / {{ return 200 \"well\\n\"; }} }}"
        ),
        PORT,
    )
}

/// Plays the client that `start` starts, once the agent is warm. On a busy machine a request may fail;
/// after [`MAY_FAIL`] of them the client ends.
fn play(stage: &Stage, start: impl FnOnce(&str) -> Result<Daemon>, at_least: u64) -> Result<()> {
    let mut server = nginx(stage)?;
    if !stage.wait_until_warm() {
        return Ok(());
    }
    let mut client = start(&format!("https://127.0.0.1:{PORT}/"))?;
    stage.keep(&mut [&mut server, &mut client])?;
    stage.must_have_accepted(at_least)?;
    // One request in ten would already be a storm by the number.
    stage.must_have_reset(at_least / 10)
}

/// A shell's step after a request that has failed.
fn failed() -> String {
    format!("{{ echo $?; failed=$((failed + 1)); [ $failed -le {MAY_FAIL} ] || exit 1; }}")
}

fn curl_ten_times_a_second(stage: &Stage) -> Result<()> {
    let line = |url: &str| {
        format!(
            "curl --silent --insecure --fail --output /dev/null {url} || {}; sleep 0.04",
            failed()
        )
    };
    play(stage, |url| stage.repeat(&line(url)), 500)
}

fn ab_a_hundred_times_a_second(stage: &Stage) -> Result<()> {
    let line = |url: &str| format!("ab -q -n 100 -c 10 {url} || {}; sleep 0.7", failed());
    play(stage, |url| stage.repeat(&line(url)), 5_000)
}

fn python(stage: &Stage) -> Result<()> {
    play(stage, |url| stage.python("ask.py", &[url, "25"]), 1_000)
}

fn node(stage: &Stage) -> Result<()> {
    // The agent of Node that keeps no connection.
    let script = |url: &str| {
        format!(
            "let failed = 0; setInterval(() => require('https').get('{url}', \
             {{agent: false, rejectUnauthorized: false}}, answer => answer.resume())\
             .on('error', error => {{ console.log(error.code); \
             if (++failed > {MAY_FAIL}) process.exit(1); }}), 40)"
        )
    };
    play(stage, |url| stage.run("node", &["-e", &script(url)]), 1_000)
}
