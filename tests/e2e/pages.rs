//! Commands of the documents, as they stand there but for ports and paths.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::agent;
use crate::support::pages::{block, shell, with};
use crate::support::{Collector, PATIENCE, Port, Running, has_programs, slow};

/// Where `pap-heartbeat` is.
fn programs() -> String {
    Path::new(&agent::program()).parent().unwrap().display().to_string()
}

#[test]
fn each_form_of_pap_heartbeat_beats_and_says_goodbye() {
    if !has_programs(&["bash", "nginx"]) {
        return;
    }
    let page = block("docs/heartbeat.md", "export PAP_AGENT_ID");
    let (export, forms) = page.split_once("\n\n").unwrap();
    let (collector, directory) = (Collector::start(&[]), tempfile::tempdir().unwrap());
    let here = directory.path().display();
    let export = with(export, &[("localhost:8080", &format!("localhost:{}", collector.port))]);
    let agent = "/agents/550e8400-e29b-41d4-a716-446655440000";
    assert_eq!(forms.lines().count(), 3);
    for form in forms.lines() {
        let port = Port::reserve();
        let (pid, conf) = (format!("{here}/nginx.pid"), format!("{here}/nginx.conf"));
        let own = format!(
            "pid {pid};\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {here};\n  \
             server {{ listen 127.0.0.1:{}; location /ready {{ return 200; }} }}\n}}\n",
            port.number
        );
        std::fs::write(&conf, own).unwrap();
        let nginx = format!("nginx -e stderr -c {conf} -g");
        let names = [
            ("nginx -g", nginx.as_str()),
            ("/run/nginx.pid", &pid),
            ("127.0.0.1:80/", &format!("127.0.0.1:{}/", port.number)),
        ];
        let names: Vec<_> = names.into_iter().filter(|(from, _)| form.contains(from)).collect();
        assert_eq!(names.len(), 1, "{form}");
        // The first form runs it.
        let _nginx = (!form.contains("nginx -g")).then(|| {
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-c", &conf, "-g", "daemon off;"]).stdout(Stdio::null());
            let nginx = Running::spawn(&mut command);
            nginx.poll("nginx listens", || TcpStream::connect(("127.0.0.1", port.number)).is_ok());
            nginx
        });
        let commands = format!("{export}\nexec {}", with(form, &names));
        let mut heartbeat = shell(&commands, Path::new(&programs()));
        heartbeat.env("PAP_STATUS_FILE", format!("{here}/status")).stdout(Stdio::null());
        let mut heartbeat = Running::spawn(&mut heartbeat);
        heartbeat.poll("the agent lives", || collector.get(agent).body.contains("\"healthy\""));
        assert!(TcpStream::connect(("127.0.0.1", port.number)).is_ok(), "nginx runs");
        heartbeat.signal("TERM");
        assert_eq!(heartbeat.wait(), Some(0), "{form}: {}", heartbeat.log().join("\n"));
        assert_eq!(collector.get(agent).status, 404, "{form}: no goodbye");
    }
}

#[test]
fn a_client_observes() {
    if !slow("needs the Python package websockets") || !has_programs(&["bash", "python3"]) {
        return;
    }
    let collector = Collector::start(&[]);
    let page = block("docs/api.md", "python3 -m websockets");
    let page = with(&page, &[("localhost:8080", &format!("localhost:{}", collector.port))]);
    let mut client = shell(&format!("exec timeout {} {page}", PATIENCE.as_secs()), Path::new("/"));
    let mut client =
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"initial\"")), "it says nothing");
    collector.beat("a", "EMERGENCY", 1.0);
    assert!(lines.any(|line| line.contains("EMERGENCY_MODE")), "it does not tell of an alert");
    client.kill().unwrap();
    client.wait().unwrap();
}
