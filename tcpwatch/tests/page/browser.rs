//! Debian's chromium, driven through the pipe of its DevTools protocol: a JSON object for each
//! message, each ended by a zero byte.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, poll};

/// A browser with one tab.
pub(crate) struct Browser {
    child: Child,
    /// `None` ends the browser.
    commands: Option<ChildStdin>,
    messages: mpsc::Receiver<Value>,
    last_id: u64,
    /// The tab.
    session: Option<String>,
    /// Goes after the browser, which writes there.
    _profile: Folder,
}

impl Browser {
    /// Starts it with an empty profile.
    pub(crate) fn start() -> Result<Self> {
        let profile = Folder::new()?;
        // The protocol's descriptors are 3 and 4. Without a sandbox it runs as root.
        let mut child = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-breakpad", "--hide-scrollbars"])
            .args(["--force-color-profile=srgb", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting chromium")?;
        let commands = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("a browser has an output")?);
        let (sender, messages) = mpsc::channel();
        // It ends with the browser's output.
        thread::spawn(move || {
            let mut bytes = Vec::new();
            while output.read_until(0, &mut bytes).is_ok_and(|length| length > 0) {
                bytes.pop();
                let message = serde_json::from_slice(&bytes).unwrap_or_default();
                if sender.send(message).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        let mut browser =
            Self { child, commands, messages, last_id: 0, session: None, _profile: profile };
        browser.open_tab()?;
        Ok(browser)
    }

    fn open_tab(&mut self) -> Result<()> {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach)?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        ensure!(self.session.is_some(), "no session: {attached}");
        self.call("Page.enable", json!({}))?;
        // A tab without it has no clipboard.
        self.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }))?;
        Ok(())
    }

    /// Calls a method of the protocol and waits for its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let commands = self.commands.as_mut().context("the browser has ended")?;
        commands.write_all(format!("{command}\0").as_bytes())?;
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).with_context(|| method.to_owned())?;
            if message["id"] == self.last_id {
                ensure!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
        }
    }

    /// The value of an expression in the page; a promise is awaited.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
            "userGesture": true,
        });
        let result = self.call("Runtime.evaluate", params)?;
        if let Some(exception) = result.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&mut self, expression: &str) -> Result<()> {
        poll(expression, || Ok((self.evaluate(expression)? == true).then_some(())))
    }

    /// Loads an address.
    pub(crate) fn open(&mut self, url: &str) -> Result<()> {
        let loaded = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(loaded.get("errorText").is_none(), "{url}: {loaded}");
        self.wait_for("document.readyState === 'complete'")
    }

    /// Sets the size of the window and the theme.
    pub(crate) fn show(&mut self, (width, height): (u32, u32), theme: &str) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let theme = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": theme }))?;
        Ok(())
    }

    /// Clicks on the middle of the first element that a selector names.
    pub(crate) fn click(&mut self, selector: &str) -> Result<()> {
        let place = self.evaluate(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); \
             it.scrollIntoView({{ block: 'center' }}); const box = it.getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ))?;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event)?;
        }
        Ok(())
    }

    /// The window as a PNG, in base64.
    pub(crate) fn screenshot(&mut self) -> Result<String> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        Ok(shot["data"].as_str().context("no picture")?.to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends with its pipe, and its own processes with it.
        self.commands = None;
        let ended = poll("chromium to end", || Ok(self.child.try_wait()?));
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
