//! The settings about Kafka.

use pap_process::settings::Fallback::{Value, Words};
use pap_process::settings::Kind::{Certificates, Choice, File, SecretText, Text};
use pap_process::settings::{ConfigError, Reader, Secret, Setting};

/// The most brokers that may be named.
const MAX_BROKERS: usize = 32;

pap_process::settings! {
    /// brokers of a Kafka, host:port with commas between them; needs a program that was built with Kafka
    KAFKA_BROKERS: Text(4096), Words("none, no Kafka");
    /// the topic with the registrations of clusters
    KAFKA_REGISTRY_TOPIC: Text(249), Value("cluster.registry");
    /// the topic with the heartbeats of clusters
    KAFKA_HEARTBEAT_TOPIC: Text(249), Value("cluster.heartbeat");
    /// the topic to which the audit is copied, such as cluster.audit
    KAFKA_AUDIT_TOPIC: Text(249), Words("none, the audit is in STATION_DB alone");
    /// whether the brokers are spoken to by TLS; needs a program that was built with TLS for Kafka
    KAFKA_TLS: Choice(&["false", "true"]), Value("false");
    /// with KAFKA_TLS, the certificates that are trusted
    KAFKA_CA_FILE: Certificates, Words("those that the system trusts");
    /// with KAFKA_TLS, the certificate that the station shows, as PEM
    KAFKA_CERT_FILE: File, Words("none");
    /// with KAFKA_CERT_FILE, its key, as PEM
    KAFKA_KEY_FILE: File, Words("none");
    /// how the station logs in at the brokers; SCRAM needs a program that was built with TLS for Kafka
    KAFKA_SASL_MECHANISM: Choice(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]), Words("none, no login");
    /// with KAFKA_SASL_MECHANISM, the user
    KAFKA_SASL_USER: SecretText, Words("none");
    /// with KAFKA_SASL_MECHANISM, the password
    KAFKA_SASL_PASSWORD: SecretText, Words("none");
}

/// How the brokers know the station.
#[derive(Clone, Debug)]
pub struct Sasl {
    /// The mechanism.
    pub mechanism: String,
    /// The user.
    pub user: Secret,
    /// The password.
    pub password: Secret,
}

/// How the station speaks TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The file with the certificates that are trusted; None for the system's.
    pub ca: Option<String>,
    /// The files with our certificate and its key.
    pub own: Option<(String, String)>,
}

/// Which Kafka, and what is read and written there.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Its brokers, with commas between them.
    pub brokers: String,
    /// The topic with registrations,
    pub registry: String,
    /// with heartbeats,
    pub heartbeat: String,
    /// and for the audit.
    pub audit: Option<String>,
    /// How TLS is spoken; None for plain connections.
    pub tls: Option<Tls>,
    /// How the station logs in.
    pub sasl: Option<Sasl>,
}

/// What the settings say; None without a Kafka.
///
/// # Errors
/// The first setting that is wrong, or that this program was not built for.
pub fn read(from: &mut Reader<'_>) -> Result<Option<Kafka>, ConfigError> {
    let brokers: Option<String> = from.value_if_any(&KAFKA_BROKERS)?;
    let registry = topic(from, &KAFKA_REGISTRY_TOPIC)?.unwrap_or_default();
    let heartbeat = topic(from, &KAFKA_HEARTBEAT_TOPIC)?.unwrap_or_default();
    let audit = topic(from, &KAFKA_AUDIT_TOPIC)?;
    let is_tls: bool = from.value(&KAFKA_TLS)?;
    let ca: Option<String> = from.value_if_any(&KAFKA_CA_FILE)?;
    from.certificates(&KAFKA_CA_FILE)?;
    let path = |path: Option<std::path::PathBuf>| path.map(|path| path.display().to_string());
    let (cert, key) = (path(from.path(&KAFKA_CERT_FILE)?), path(from.path(&KAFKA_KEY_FILE)?));
    let mechanism: Option<String> = from.value_if_any(&KAFKA_SASL_MECHANISM)?;
    let (user, password) = (from.secret(&KAFKA_SASL_USER)?, from.secret(&KAFKA_SASL_PASSWORD)?);
    let Some(raw) = brokers else { return Ok(None) };
    if !cfg!(feature = "kafka") {
        let why = "nothing: this pap-station was built without Kafka";
        return Err(ConfigError::new(KAFKA_BROKERS.name, Some(&raw), why));
    }
    let brokers: Vec<_> = raw.split(',').map(str::trim).collect();
    if brokers.len() > MAX_BROKERS || !brokers.iter().all(|it| is_broker(it)) {
        let why = format!("it is no list of at most {MAX_BROKERS} brokers such as kafka:9092");
        return Err(KAFKA_BROKERS.wrong_as(&raw, &why));
    }
    let without_tls = |setting: &Setting, value: &str, others: &str| {
        let allowed = format!("{others}: this pap-station was built without TLS for Kafka");
        Err(ConfigError::new(setting.name, Some(value), &allowed))
    };
    if is_tls && !cfg!(feature = "kafka-tls") {
        return without_tls(&KAFKA_TLS, "true", "false");
    }
    if let Some(scram) = mechanism.as_ref().filter(|it| *it != "PLAIN" && !cfg!(feature = "kafka-tls")) {
        return without_tls(&KAFKA_SASL_MECHANISM, scram, "PLAIN");
    }
    let own = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err(KAFKA_KEY_FILE.missing()),
        (None, Some(_)) => return Err(KAFKA_CERT_FILE.missing()),
    };
    let sasl = match mechanism {
        None => None,
        Some(mechanism) => Some(Sasl {
            mechanism,
            user: user.ok_or_else(|| KAFKA_SASL_USER.missing())?,
            password: password.ok_or_else(|| KAFKA_SASL_PASSWORD.missing())?,
        }),
    };
    let tls = is_tls.then_some(Tls { ca, own });
    Ok(Some(Kafka { brokers: brokers.join(","), registry, heartbeat, audit, tls, sasl }))
}

/// The name of a topic, as Kafka allows it.
fn topic(from: &mut Reader<'_>, setting: &'static Setting) -> Result<Option<String>, ConfigError> {
    let Some(name) = from.value_if_any::<String>(setting)? else { return Ok(None) };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_name && name != "." && name != ".." {
        Ok(Some(name))
    } else {
        Err(setting.wrong_as(&name, &"a topic's name has letters, digits, '.', '_' and '-'"))
    }
}

/// Whether this is a host and perhaps a port.
fn is_broker(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address stands in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"._-[]:".contains(&byte);
    !host.is_empty()
        && host.bytes().all(is_host)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_or_without_a_port() {
        for good in ["kafka", "kafka:9092", "10.0.0.1:1", "[::1]:9092", "[::1]", "a_b-c.example:65535"] {
            assert!(is_broker(good), "{good}");
        }
        for bad in
            ["", ":9092", "kafka:", "kafka:x", "kafka:0", "kafka:65536", "a b", "http://a:1", "SSL://a"]
        {
            assert!(!is_broker(bad), "{bad}");
        }
    }
}
