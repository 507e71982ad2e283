//! `pap-station clusters` and `pap-station deregister`: ask the station that runs here, for
//! containers without curl and shell.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pap_process::client::{agent, config, trouble};
use pap_process::escape::for_terminal;
use pap_process::files::read_small;
use pap_process::settings::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::clients::USER_AGENT;
use crate::station::admin_key_path;

/// How long a request and its answer may take together.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// The station that runs here.
pub struct Running {
    /// The address that it listens on; None for all.
    pub bind: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// The admin's key, if it is set.
    pub key: Option<Secret>,
    /// Its file; if the key is not set, it is in `admin.key` beside this file.
    pub db: PathBuf,
}

impl Running {
    fn key(&self) -> Result<String, String> {
        if let Some(key) = &self.key {
            return Ok(key.reveal().to_owned());
        }
        let path = admin_key_path(&self.db);
        let (text, _) = read_small(&path).map_err(|error| {
            format!("cannot read the admin's key in {}: {error}; set STATION_ADMIN_KEY", path.display())
        })?;
        Ok(text.trim().to_owned())
    }

    fn ask(&self, method: &str, path: &str) -> Result<(u16, String), String> {
        let key = self.key()?;
        let host = match self.bind {
            Some(address) if !address.is_unspecified() => address,
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let place = SocketAddr::new(host, self.port);
        let client = agent(config(USER_AGENT).timeout_global(Some(PATIENCE)).timeout_recv_body(None), &[]);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{place}{path}"))
            .header("Authorization", format!("Bearer {key}"))
            .body(())
            .map_err(|_| "the admin's key has characters that no header can have".to_owned())?;
        let unheard = |why: String| format!("no station answers at {place}: {why}");
        let answer = client.run(request).map_err(|error| unheard(trouble(&error)))?;
        let status = answer.status().as_u16();
        let mut body = String::new();
        let mut reader = answer.into_body().into_reader().take(MAX_ANSWER);
        reader.read_to_string(&mut body).map_err(|error| unheard(error.to_string()))?;
        Ok((status, body))
    }

    fn get(&self, path: &str) -> Result<(String, Value), String> {
        let (status, body) = self.ask("GET", path)?;
        if status != 200 {
            return Err(refused(status, &body));
        }
        let value = serde_json::from_str(&body).map_err(|error| format!("its answer is no JSON: {error}"))?;
        Ok((body, value))
    }

    /// All clusters and their workers: as a table, or the station's own JSON.
    ///
    /// # Errors
    /// There is no answer. The text is one line for people.
    pub fn clusters(&self, is_json: bool) -> Result<String, String> {
        let (json, clusters) = self.get("/api/clusters")?;
        if is_json {
            return Ok(json.trim_end().to_owned());
        }
        let (_, workers) = self.get("/api/workers")?;
        Ok(table(&clusters, &workers))
    }

    /// Has the workers of clusters that are not known removed.
    ///
    /// # Errors
    /// They are left. The text is one line for people.
    pub fn prune(&self) -> Result<String, String> {
        match self.ask("POST", "/api/workers/prune")? {
            (202, body) => {
                let found = serde_json::from_str::<Value>(&body).unwrap_or_default()["found"].as_u64();
                Ok(format!("{} workers of clusters that are not known are being removed", found.unwrap_or(0)))
            }
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Removes a cluster.
    ///
    /// # Errors
    /// It was not removed. The text is one line for people.
    pub fn deregister(&self, id: &str) -> Result<String, String> {
        let path = format!("/api/clusters/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
        match self.ask("DELETE", &path)? {
            (200, _) => Ok(format!("cluster {} is removed", for_terminal(id))),
            (404, _) => Err(format!("no cluster has the id {}", for_terminal(id))),
            (status, body) => Err(refused(status, &body)),
        }
    }
}

fn refused(status: u16, body: &str) -> String {
    let said = serde_json::from_str::<Value>(body).unwrap_or_default();
    let said = said["error"].as_str().unwrap_or(body);
    format!("the station refused ({status}): {}", for_terminal(said.trim()))
}

/// A row for each cluster.
fn table(clusters: &Value, workers: &Value) -> String {
    let empty = Vec::new();
    let all = |value: &Value, name: &str| value[name].as_array().unwrap_or(&empty).clone();
    let workers = all(workers, "workers");
    let mut rows =
        vec![["CLUSTER", "NAME", "STATE", "AGENTS", "WORKERS", "VERSION", "LAST SEEN"].map(String::from)];
    for it in all(clusters, "clusters") {
        let text =
            |name: &str| it[name].as_str().map_or_else(|| "-".to_owned(), |it| for_terminal(it).into_owned());
        let ours = || workers.iter().filter(|worker| worker["cluster_id"] == it["cluster_id"]);
        let running = ours().filter(|worker| worker["state"] == "running").count();
        let workers = if ours().count() == 0 { "-".into() } else { format!("{running}/{}", ours().count()) };
        rows.push([
            text("cluster_id"),
            text("name"),
            text("state"),
            format!("{}/{}", it["healthy_agent_count"], it["agent_count"]),
            workers,
            text("version"),
            text("last_seen_at"),
        ]);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_a_row_for_each_cluster() {
        let clusters = json!({ "clusters": [
            { "cluster_id": "af-10", "name": "prod\u{1b}", "state": "active", "version": "2.0.0", "agent_count": 3,
              "healthy_agent_count": 2, "last_seen_at": "2026-11-26T10:00:00.000Z" },
            { "cluster_id": "b", "name": "b", "state": "unknown", "version": null, "agent_count": 0,
              "healthy_agent_count": 0, "last_seen_at": null },
        ] });
        let workers = json!({ "workers": [
            { "cluster_id": "af-10", "state": "running" }, { "cluster_id": "af-10", "state": "missing" },
        ] });
        assert_eq!(
            table(&clusters, &workers),
            "CLUSTER  NAME        STATE    AGENTS  WORKERS  VERSION  LAST SEEN\n\
             af-10    prod\\u{1b}  active   2/3     1/2      2.0.0    2026-11-26T10:00:00.000Z\n\
             b        b           unknown  0/0     -        -        -"
        );
        assert_eq!(table(&json!({}), &json!({})).lines().count(), 1);
    }
}
