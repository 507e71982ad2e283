//! A real browser without a window, driven over its DevTools protocol.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::support::{PATIENCE, let_pass, slow};

/// Names that a browser's program may have.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Only one browser runs at a time, for small machines.
static TURN: Mutex<()> = Mutex::new(());

/// A running browser. Dropping it ends the browser and removes its profile.
pub struct Browser {
    child: Child,
    address: String,
    _profile: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser. If none is installed, a slow run fails; another run prints
    /// that and returns None.
    pub fn start() -> Option<Self> {
        if !slow("a browser") {
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&paths).flat_map(|path| NAMES.map(|name| path.join(name)));
        let program = programs.into_iter().find(|program| program.is_file());
        let program = program.unwrap_or_else(|| panic!("none of {NAMES:?} is in PATH"));
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--no-proxy-server"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.starts_with("DevTools listening on "));
        let address = line.expect("the browser says where it listens").replace("DevTools listening on ", "");
        // Read on, so that later messages of the browser do not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, address, _profile: profile, _turn: turn })
    }

    /// Opens a tab with nothing in it.
    pub fn tab(&self) -> Tab {
        let host = self.address.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(self.address.as_str(), stream).unwrap();
        let mut tab = Tab { socket, session: None, asked: 0, complaints: Vec::new() };
        let target = tab.call("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].clone();
        let attached = tab.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        tab.session = Some(attached["sessionId"].clone());
        for domain in ["Page", "Runtime", "Log"] {
            tab.call(&format!("{domain}.enable"), &json!({}));
        }
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tab of the browser.
pub struct Tab {
    socket: WebSocket<TcpStream>,
    session: Option<Value>,
    asked: u64,
    complaints: Vec<String>,
}

impl Tab {
    /// One command of the DevTools protocol and its result.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// One command, and its result or the browser's error.
    fn try_call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        self.asked += 1;
        let mut command = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = session.clone();
        }
        self.socket.send(Message::text(command.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == self.asked {
                let error = message["error"].take();
                return if error.is_null() { Ok(message["result"].take()) } else { Err(error) };
            }
            self.note(&message);
        }
    }

    /// Keeps what the browser complains about: errors of scripts, of requests
    /// and of the Content-Security-Policy.
    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let bad = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => params["type"] == "error",
            // It also ends requests when an interface of this machine comes or goes, as a container's does.
            Some("Log.entryAdded") => {
                let entry = &params["entry"];
                entry["level"] == "error"
                    && !entry["text"].as_str().is_some_and(|it| it.contains("ERR_NETWORK_CHANGED"))
            }
            _ => false,
        };
        if bad {
            self.complaints.push(params.to_string());
        }
    }

    /// What the browser has complained about since the last time.
    pub fn complaints(&mut self) -> Vec<String> {
        self.evaluate("0");
        std::mem::take(&mut self.complaints)
    }

    /// Opens an address and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.load(|tab| {
            let went = tab.call("Page.navigate", &json!({"url": url}));
            assert!(went["errorText"].is_null(), "{url}: {}", went["errorText"]);
        });
    }

    /// Runs `act`, which makes the tab load a page, and waits until it is loaded.
    pub fn load(&mut self, act: impl FnOnce(&mut Self)) {
        // Each page has its own time origin, so a new one shows a new page.
        let before = self.evaluate("performance.timeOrigin");
        act(self);
        let loaded = format!("document.readyState === 'complete' && performance.timeOrigin !== {before}");
        self.poll("the page is loaded", &loaded);
    }

    /// The value of an expression. It waits for a promise.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The value of an expression, or the browser's error. A page that is just being
    /// replaced by another one gives an error.
    fn try_evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.try_call("Runtime.evaluate", &params)?;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].take())
    }

    /// The text of the element that a selector finds.
    pub fn text(&mut self, selector: &str) -> String {
        let value = self.evaluate(&format!("document.querySelector({})?.innerText", json!(selector)));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Asks until the expression is true, and returns the time at which it was.
    pub fn poll(&mut self, what: &str, expression: &str) -> Instant {
        let give_up = Instant::now() + PATIENCE;
        // A page that is still loading may lack elements, which is an error.
        let expression = format!("(() => {{ try {{ return {expression} }} catch {{ return false }} }})()");
        loop {
            let value = self.try_evaluate(&expression);
            if value == Ok(true.into()) {
                return Instant::now();
            }
            assert!(
                Instant::now() < give_up,
                "waited in vain until {what}: {value:?}; the page says:\n{}\ncomplaints: {:?}",
                self.text("body"),
                self.complaints
            );
            let_pass(Duration::from_millis(10));
        }
    }

    /// Presses and releases a key, as a hand does.
    pub fn key(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "ArrowDown" => 40,
            "/" => 191,
            other => panic!("unknown key {other}"),
        };
        let text = match key {
            "Enter" => "\r",
            "/" => "/",
            _ => "",
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", &params);
        }
    }

    /// Types text where the focus is.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// Makes the window this big, in CSS pixels. Below 600 it is a phone.
    pub fn resize(&mut self, width: u32, height: u32) {
        let phone = width < 600;
        let scale = if phone { 2 } else { 1 };
        let size = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Sets whether the browser prefers dark colours.
    pub fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// Writes the visible part of the page as a PNG.
    pub fn screenshot(&mut self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        std::fs::write(path, BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}
